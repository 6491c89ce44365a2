"""Which workers can be reached, which are lost, which are dead. On the worker's loop thread.

Lost is not dead: a lost peer may go on writing. Dead takes proof: its process on this node is gone,
the same worker answers with a new epoch, or whoever owns the process says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from baton.core.clock import Clock
from baton.core.errors import HandoffError
from baton.telemetry.logging import event
from baton.transfer.base import LinkInfo, Transport
from baton.transfer.hello import Greeter, PeerHello
from baton.transfer.links import RECONNECT_S, Link, Message
from baton.transfer.process import is_dead
from baton.transfer.seal import is_sealed, seal
from baton.v1 import common_pb2, worker_pb2

log = logging.getLogger(__name__)

# What a dead process has left in socket buffers lands within this.
DEATH_LINGER_S = 0.5
DEATH_CHECK_S = 0.1

PeerId = tuple[str, int]


@dataclass(slots=True, eq=False)
class Peer:
    """One life of a worker."""

    worker_id: str
    epoch: int
    hello: PeerHello | None = None
    # Newest last; more than one when both sides dialled at once.
    links: list[Link] = field(default_factory=list)
    # Epoch that the dial was for which keeps a stream to this peer; None: we do not dial.
    dial_epoch: int | None = None
    # When its last stream ended, while it may still come back by itself.
    missing_since: float | None = None
    died_at: float | None = None
    buried: bool = False
    # What carries the bytes there, once that has been looked at.
    info: LinkInfo | None = None
    # What `link` was last made of, and the result.
    _told: tuple[tuple[object, ...], worker_pb2.PeerLink] | None = None

    @property
    def peer_id(self) -> PeerId:
        return self.worker_id, self.epoch

    def link(self, transport: str) -> worker_pb2.PeerLink | None:
        """What is known of the way there; None before it has said Hello. From any thread.

        The same object until something changes: every step's load report holds it.
        """
        hello, info, told = self.hello, self.info, self._told
        if hello is None:
            return None
        made_of = (hello, info, bool(self.links))
        if told is None or told[0] != made_of:
            link = worker_pb2.PeerLink(
                peer=common_pb2.WorkerRef(
                    worker_id=self.worker_id, epoch=self.epoch, address=hello.address
                ),
                transport=transport,
                fabric=info.fabric if info is not None else "",
                bytes_per_s=info.bytes_per_s if info is not None else 0.0,
                is_up=bool(self.links),
            )
            told = self._told = (made_of, link)
        return told[1]


class PeerEvents(Protocol):
    """What the handoffs want to know."""

    def on_peer_up(self, peer: Peer) -> None: ...

    def on_peer_lost(self, peer: Peer, reason: str) -> None: ...

    def on_peer_dead(self, peer: Peer) -> None: ...

    def on_peer_message(self, peer: Peer, message: Message) -> None: ...

    def peer_matters(self, peer: Peer) -> bool:
        """Some handoff, or a block in quarantine, waits for news of it."""


class Peers:
    """Implements `links.LinkEvents`."""

    def __init__(
        self,
        transport: Transport,
        greeter: Greeter,
        events: PeerEvents,
        dial: Callable[[common_pb2.WorkerRef], None],
        clock: Clock,
        measured: Callable[[Peer], None],
    ) -> None:
        """`measured` is called on any thread when a peer's `info` is there."""
        self._transport = transport
        self._greeter = greeter
        self._events = events
        self._dial = dial
        self._clock = clock
        self._measured = measured
        self._peers: dict[PeerId, Peer] = {}
        # Life and transport epoch that the transport writes to, per worker.
        self._connected: dict[str, tuple[int, int]] = {}
        self._next_check = 0.0

    def reach(self, ref: common_pb2.WorkerRef) -> Peer:
        """The record of a worker's life; dials unless a stream is there or on its way."""
        peer = self._record(ref.worker_id, ref.epoch)
        if not peer.links and peer.dial_epoch is None and peer.died_at is None:
            peer.dial_epoch = ref.epoch
            self._dial(ref)
        return peer

    def note(self, ref: common_pb2.WorkerRef) -> None:
        """Keep a record of a worker's life: some handoff of it begins."""
        self._record(ref.worker_id, ref.epoch)

    def find(self, peer_id: PeerId) -> Peer | None:
        return self._peers.get(peer_id)

    def all(self) -> list[Peer]:
        """Every life of a worker that is remembered. From any thread."""
        return list(self._peers.values())

    def send(self, peer_id: PeerId, message: Message) -> None:
        """On the newest stream; lost when there is none. Not for Hello."""
        peer = self._peers.get(peer_id)
        if peer is not None and peer.links:
            seal(message)
            peer.links[-1].send(message)

    def transport_epoch(self, peer_id: PeerId) -> int | None:
        """Which agent of this life of a worker our transport is connected to, if to any."""
        worker_id, epoch = peer_id
        connected = self._connected.get(worker_id)
        return connected[1] if connected is not None and connected[0] == epoch else None

    def declare_dead(self, worker_id: str, epoch: int) -> None:
        """Someone who knows says that this process is gone."""
        self._die(self._record(worker_id, epoch), "its process is gone")

    def reintroduce(self) -> None:
        """Our agent is new, or has lost its peers: connect it to everyone, and tell them."""
        self._connected.clear()
        for peer in self._peers.values():
            if peer.links:
                self._connect(peer)
                peer.links[-1].send(self._greeter.message)

    # --- LinkEvents ---

    def link_up(self, link: Link) -> None:
        hello = link.hello
        peer = self._record(hello.worker_id, hello.epoch)
        for other in list(self._peers.values()):
            if other.worker_id == peer.worker_id and other is not peer:
                if peer.dial_epoch is None:
                    peer.dial_epoch, other.dial_epoch = other.dial_epoch, None
                self._die(other, "it answers with a new epoch")
        peer.hello = hello
        peer.links.append(link)
        peer.missing_since = peer.died_at = None
        peer.buried = False
        self._connect(peer)
        self._events.on_peer_up(peer)

    def link_message(self, link: Link, message: Message) -> None:
        peer = self._record(link.hello.worker_id, link.hello.epoch)
        if message.WhichOneof("body") != "hello":
            if is_sealed(message):
                self._events.on_peer_message(peer, message)
            else:
                log.warning(*event("corrupt_handoff_message", peer=peer.worker_id))
            return
        try:
            hello = self._greeter.check(message)
        except HandoffError as error:
            log.warning("%s: later Hello ignored: %s", peer.worker_id, error)
            return
        if (hello.worker_id, hello.epoch) == peer.peer_id:
            peer.hello = hello
            self._connect(peer)

    def link_down(self, link: Link, reason: str) -> None:
        peer = self._record(link.hello.worker_id, link.hello.epoch)
        if link in peer.links:
            peer.links.remove(link)
        if not peer.links and peer.died_at is None:
            # A dial that goes on reports by itself; a peer that dialled us has this long.
            peer.missing_since = self._clock()
            self._next_check = 0.0

    def dial_failed(self, peer: common_pb2.WorkerRef, reason: str) -> None:
        for known in list(self._peers.values()):
            if known.worker_id == peer.worker_id and known.dial_epoch == peer.epoch:
                known.dial_epoch = None
                if not known.links and known.died_at is None:
                    known.missing_since = None
                    self._events.on_peer_lost(known, reason)

    # --- time ---

    def tick(self) -> None:
        """Look after those that are missing."""
        now = self._clock()
        look = now >= self._next_check
        if look:
            self._next_check = now + DEATH_CHECK_S
        for peer in list(self._peers.values()):
            if peer.links:
                continue
            if peer.died_at is not None:
                if not peer.buried and now >= peer.died_at + DEATH_LINGER_S:
                    peer.buried = True
                    self._events.on_peer_dead(peer)
            elif look and peer.hello is not None and is_dead(peer.hello.process):
                self._die(peer, "its process is gone")
            elif peer.missing_since is not None and now >= peer.missing_since + RECONNECT_S:
                peer.missing_since = None
                if peer.dial_epoch is None:
                    reason = f"{peer.worker_id} did not come back within {RECONNECT_S:g} s"
                    self._events.on_peer_lost(peer, reason)
            if look:
                self._forget_if_idle(peer)

    def next_deadline(self) -> float | None:
        """When `tick` has something to do for peers that are missing."""
        for peer in self._peers.values():
            if not peer.links and not peer.buried and (peer.hello or peer.died_at is not None):
                return self._next_check
        return None

    def _forget_if_idle(self, peer: Peer) -> None:
        gone = peer.buried or (
            peer.died_at is None and peer.missing_since is None and peer.dial_epoch is None
        )
        if gone and not self._events.peer_matters(peer):
            del self._peers[peer.peer_id]
            if self.transport_epoch(peer.peer_id) is not None:
                self._disconnect(peer)

    # --- small parts ---

    def _record(self, worker_id: str, epoch: int) -> Peer:
        peer = self._peers.get((worker_id, epoch))
        if peer is None:
            peer = self._peers[worker_id, epoch] = Peer(worker_id, epoch)
        return peer

    def _connect(self, peer: Peer) -> None:
        """Point the transport at the peer's present agent."""
        assert peer.hello is not None, "a stream begins with Hello"
        life = (peer.epoch, peer.hello.transport_epoch)
        if self._connected.get(peer.worker_id) != life:
            self._connected[peer.worker_id] = life

            def measured(info: LinkInfo) -> None:
                peer.info = info
                self._measured(peer)

            self._transport.connect(peer.worker_id, [peer.hello.shard], measured)

    def _disconnect(self, peer: Peer) -> None:
        del self._connected[peer.worker_id]
        self._transport.disconnect(peer.worker_id)

    def _die(self, peer: Peer, reason: str) -> None:
        if peer.died_at is not None:
            return
        peer.died_at = self._clock()
        peer.links.clear()
        peer.missing_since = None
        if self.transport_epoch(peer.peer_id) is not None:
            self._disconnect(peer)
        self._events.on_peer_lost(peer, f"{peer.worker_id}: {reason}")
