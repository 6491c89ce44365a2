"""All handoffs of a worker: carries out what their state machines ask for.

Everything but `serve` is called on the worker's loop thread. Streams live on the asyncio thread,
writes and checks on threads of their own; all of them come back through `post`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

from baton.core.clock import Clock, monotonic
from baton.core.errors import BatonError, HandoffError, InvalidRequestError
from baton.core.kv import GroupSpec
from baton.core.request import Request
from baton.core.settings import TransferSettings
from baton.telemetry.logging import event as log_event
from baton.transfer import state
from baton.transfer.base import Arena, HandoffHost, Key, MoveStop, SourceOutput, Transport
from baton.transfer.effects import Effects, Entry
from baton.transfer.fetching import FetchHost, Fetching
from baton.transfer.hello import Greeter
from baton.transfer.links import Links, Message
from baton.transfer.parking import Parking
from baton.transfer.peers import Peer, PeerId, Peers
from baton.transfer.preflight import warn_of_fabric
from baton.transfer.process import node
from baton.transfer.source_state import SourceHandoff
from baton.transfer.target_state import TargetHandoff, TargetState
from baton.transfer.wire_codec import wire_codecs
from baton.v1 import common_pb2, transfer_pb2, worker_pb2

log = logging.getLogger(__name__)

# A handoff that has ended answers duplicates and late questions for this long.
REMEMBER_S = 60.0


class OfferDue(Protocol):
    """`engine.outputs.OfferDue`, which this package does not see."""

    @property
    def key(self) -> Key: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def hashes(self) -> tuple[tuple[bytes, ...], ...]: ...
    @property
    def num_blocks(self) -> tuple[int, ...]: ...
    @property
    def growth_tokens(self) -> int: ...


class Handoffs:
    """The handoffs in which this worker is source or target.

    `post(work)` runs `work` on the loop thread soon; `do`, if there is one, may run it at once, on
    whatever thread, while the loop thread waits. `loop` is the asyncio loop of the gRPC server.
    The transport is registered already. `link_changed` is called on any thread when `peers` has
    something new to tell.
    """

    def __init__(
        self,
        me: common_pb2.WorkerRef,
        digest: str,
        transport: Transport,
        arenas: Sequence[Arena],
        groups: Sequence[GroupSpec],
        host: HandoffHost,
        post: Callable[[Callable[[], None]], None],
        loop: asyncio.AbstractEventLoop,
        token: str,
        settings: TransferSettings,
        clock: Clock = monotonic,
        link_changed: Callable[[], None] = lambda: None,
        *,
        fetch_host: FetchHost,
        do: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self._me = me
        self._transport = transport
        self._num_groups = len(groups)
        self._host = host
        self._settings = settings
        self._clock = clock
        self._link_changed = link_changed
        self._greeter = Greeter(me, digest, groups, arenas, transport)
        self._peers = Peers(transport, self._greeter, self, self._dial, clock, self._measured)
        self._links = Links(self._greeter, token, loop, post, do or post, self._peers)
        codecs = wire_codecs(settings, groups, arenas)
        self._effects = Effects(
            transport, arenas, codecs, self._peers, post, settings, self._feed, clock
        )
        self._fetching = Fetching(
            me,
            len(groups),
            fetch_host,
            self._peers,
            settings,
            transport.codecs,
            clock,
            self._enter,
            self._feed,
        )
        # Ended ones too, for REMEMBER_S.
        self._entries: dict[bytes, Entry] = {}
        self._open: dict[bytes, Entry] = {}
        self._by_key: dict[Key, Entry] = {}
        self._ended: deque[tuple[float, bytes]] = deque()
        self._parking = Parking(settings.offer_wait_s)
        self._pool_blocks = sum(arena.num_blocks for arena in arenas)
        self._closed = False
        # Since when too many blocks are in quarantine.
        self._crowded_at: float | None = None
        self.must_restart = False
        """Too many blocks are in quarantine, and recreating the transport cannot free them."""

    def _measured(self, peer: Peer) -> None:
        """On any thread: it is known what carries the bytes to a peer."""
        assert peer.info is not None, "that is what was looked at"
        warn_of_fabric(self._settings, self._transport.name, peer.worker_id, peer.info)
        self._link_changed()

    def _dial(self, ref: common_pb2.WorkerRef) -> None:
        self._links.dial(ref)

    # --- from the worker ---

    def start_source(
        self,
        handoff_id: bytes,
        key: Key,
        request: Request,
        attempt: int,
        peer: common_pb2.WorkerRef,
    ) -> None:
        """This worker computes `request` for `peer`, or moves it there as it decodes.

        Connects meanwhile.
        """
        identity = state.Identity(handoff_id, attempt, self._me.epoch, peer.epoch)
        self._check_new(identity, key)
        machine = SourceHandoff(identity, request.outputs, request.deadline, self._settings)
        entry = self._add(key, machine, request, peer)
        self._peers.reach(peer)
        self._feed_if_dead(entry)

    def start_target(
        self,
        handoff_id: bytes,
        key: Key,
        request: Request,
        attempt: int,
        peer: common_pb2.WorkerRef,
    ) -> None:
        """`peer` computes `request` for this worker; its Offer may be here already."""
        identity = state.Identity(handoff_id, attempt, peer.epoch, self._me.epoch)
        self._check_new(identity, key)
        machine = TargetHandoff(
            identity,
            request.outputs,
            self._num_groups,
            request.deadline,
            self._settings,
            self._clock(),
        )
        entry = self._add(key, machine, request, peer)
        self._peers.note(peer)
        self._feed_if_dead(entry)
        for message in self._parking.take(handoff_id, (peer.worker_id, peer.epoch)):
            self._receive((peer.worker_id, peer.epoch), message)

    def _check_new(self, identity: state.Identity, key: Key) -> None:
        if identity.handoff_id in self._entries or key in self._by_key:
            raise InvalidRequestError("this handoff has been started already")

    def _add(
        self,
        key: Key,
        machine: SourceHandoff | TargetHandoff,
        request: Request,
        peer: common_pb2.WorkerRef,
    ) -> Entry:
        peer_id = (peer.worker_id, peer.epoch)
        entry = Entry(key, machine, peer_id, request.request_id, request, self._host)
        self._enter(entry)
        return entry

    def _enter(self, entry: Entry) -> None:
        handoff_id = entry.machine.identity.handoff_id
        self._entries[handoff_id] = self._open[handoff_id] = self._by_key[entry.key] = entry

    def fetch(
        self,
        key: Key,
        request: Request,
        peer: common_pb2.WorkerRef,
        group: int,
        hashes: Sequence[bytes],
    ) -> None:
        """See `Fetching.ask`."""
        self._fetching.ask(key, request, peer, group, hashes)
        self._feed_if_dead(self._by_key[key])

    def offer(self, due: OfferDue) -> None:
        """The engine has scheduled a source's prompt, or begins to move a sequence."""
        # A sequence that is moved would stand still while its blocks are decoded.
        codecs = () if due.growth_tokens else self._transport.codecs
        self._feed_key(
            due.key,
            state.Due(due.num_tokens, due.hashes, due.num_blocks, due.growth_tokens, codecs),
        )

    def blocks_ready(
        self,
        key: Key,
        first_index: tuple[int, ...],
        block_ids: tuple[tuple[int, ...], ...],
        done: bool,
        outputs: Mapping[int, SourceOutput] | None,
        part: int = 0,
        num_parts: int = 1,
    ) -> None:
        """A source's blocks are final, or a part of them; `outputs` are there when `done`."""
        outputs = (outputs or {}) if done else None
        ready = state.Ready(first_index, block_ids, outputs, part, num_parts)
        self._feed_key(key, ready)

    def move_stopped(self, key: Key, stop: MoveStop) -> None:
        """A sequence that is moved computes no further, or has ended."""
        self._feed_key(key, state.Stopped(stop))

    def fail_source(self, key: Key, error: BatonError) -> None:
        """The engine gave a source up, and has told the host itself."""
        self._feed_key(key, state.ComputeFailed(error))

    def cancel(self, key: Key, reason: str) -> None:
        """The client is gone. The host hears no more than that the blocks are free."""
        self._feed_key(key, state.Stop(reason))

    def room_freed(self) -> None:
        """Try the offers that wait for room, oldest first, until one still finds none."""
        queue = self._effects.queue
        for handoff_id, entry in list(queue.items()):
            self._feed(entry, state.RoomFreed())
            if handoff_id in queue:
                return

    def peer_dead(self, worker_id: str, epoch: int) -> None:
        """This process is known dead: nothing of it can land any more."""
        self._peers.declare_dead(worker_id, epoch)

    def num_open(self) -> int:
        """Handoffs that have not ended; those whose blocks are in quarantine have."""
        return len(self._open)

    @property
    def holds_up(self) -> bool:
        """A sequence stands still until a write or a check of ours ends, which is a moment."""
        return any(entry.machine.holds_up for entry in self._open.values())

    def peers(self) -> list[worker_pb2.PeerLink]:
        """The workers that KV moves to and from. From any thread."""
        links = (peer.link(self._transport.name) for peer in self._peers.all())
        return [link for link in links if link is not None]

    @property
    def num_queued(self) -> int:
        """Offers that wait for room here."""
        return len(self._effects.queue)

    @property
    def num_early(self) -> int:
        """Handoffs that a peer has spoken of and no gateway yet."""
        return len(self._parking)

    @property
    def num_quarantined_blocks(self) -> int:
        """Blocks set aside because a peer may still write to them."""
        return self._effects.num_quarantined

    def close(self) -> None:
        """Stop speaking, and hear no more. The worker is about to leave."""
        self._closed = True
        self._links.close()
        self._effects.close()

    async def serve(
        self, request_iterator: AsyncIterator[transfer_pb2.HandoffRequest], context: Any
    ) -> None:
        """`TransferService.Handoff`; writes its answers to `context`. On the asyncio thread."""
        await self._links.serve(request_iterator, context)

    # --- time ---

    def tick(self) -> None:
        """Look at every deadline that has passed."""
        self._peers.tick()
        now = self._clock()
        for entry in list(self._open.values()):
            if entry.machine.due_at <= now:
                self._feed(entry, state.Tick())
        for peer_id, refusal in self._parking.expire(now):
            self._peers.send(peer_id, refusal)
        self._forget(now)
        self._watch_quarantine(now)

    def next_deadline(self) -> float | None:
        """When `tick` is wanted, at the latest."""
        due = min((entry.machine.due_at for entry in self._open.values()), default=None)
        peers = self._peers.next_deadline()
        if due is None or peers is None:
            return peers if due is None else due
        return min(due, peers)

    def _forget(self, now: float) -> None:
        while self._ended and self._ended[0][0] <= now:
            _, handoff_id = self._ended.popleft()
            if _unsettled(self._entries[handoff_id]):
                self._feed(self._entries[handoff_id], state.Tick())
                self._ended.append((now + REMEMBER_S, handoff_id))
            else:
                del self._entries[handoff_id]

    # --- quarantine ---

    def _watch_quarantine(self, now: float) -> None:
        """Act once it has been too large for `quarantine_wait_s`."""
        settings = self._settings
        if self.num_quarantined_blocks <= settings.max_quarantined_share * self._pool_blocks:
            self._crowded_at, self.must_restart = None, False
        elif self._crowded_at is None:
            self._crowded_at = now
        elif now - self._crowded_at >= settings.quarantine_wait_s and not self.must_restart:
            self._crowded_at = None
            self._free_quarantine()

    def _fenced(self, peer_id: PeerId) -> bool:
        """Whether a new agent of ours ends this peer's writes."""
        if self._transport.recreate_fences_node:
            return True
        peer = self._peers.find(peer_id)
        there = peer.hello.process.node if peer is not None and peer.hello is not None else ""
        return bool(there) and bool(node()) and there != node()

    def _free_quarantine(self) -> None:
        """Recreate the transport where that frees blocks; else a restart must."""
        kept = [e for e in self._entries.values() if e.num_quarantined]
        if not any(self._fenced(entry.peer_id) for entry in kept):
            log.critical(*log_event("quarantine_full", blocks=self.num_quarantined_blocks))
            self.must_restart = True
            return
        log.warning(
            *log_event("transport_recreated", quarantined_blocks=self.num_quarantined_blocks)
        )
        try:
            self._transport.recreate()
        except HandoffError as error:
            log.critical(*log_event("transport_stuck", reason=error.message))
            self.must_restart = True
            # The old agent lives, without its peers: the drain that follows has to reach them.
            self._peers.reintroduce()
            return
        self._greeter.refresh()
        self._peers.reintroduce()
        for entry in list(self._entries.values()):
            self._feed(entry, state.Recreated(self._fenced(entry.peer_id)))

    # --- PeerEvents ---

    def on_peer_up(self, peer: Peer) -> None:
        self._feed_peer(peer, state.PeerUp())

    def on_peer_lost(self, peer: Peer, reason: str) -> None:
        self._parking.forget(peer.peer_id)
        self._feed_peer(peer, state.PeerLost(reason))

    def on_peer_dead(self, peer: Peer) -> None:
        self._feed_peer(peer, state.PeerDead())

    def on_peer_message(self, peer: Peer, message: Message) -> None:
        self._receive(peer.peer_id, message)

    def peer_matters(self, peer: Peer) -> bool:
        return any(
            entry.peer_id == peer.peer_id and (not entry.machine.closed or _unsettled(entry))
            for entry in self._entries.values()
        )

    # --- events to machines ---

    def _receive(self, peer_id: PeerId, message: Message) -> None:
        if self._closed:
            return
        entry = self._entries.get(message.handoff_id)
        answer: Message | None
        if entry is None and message.WhichOneof("body") == "fetch":
            answer = self._fetching.lend(peer_id, message)
            if answer is not None:
                self._peers.send(peer_id, answer)
        elif entry is None:
            answer = self._parking.receive(peer_id, message, self._me.epoch, self._clock())
            if answer is not None:
                self._peers.send(peer_id, answer)
        elif entry.peer_id == peer_id and entry.machine.identity.names(message):
            self._feed(entry, state.Received(message))
        else:
            # Of another attempt or another life of either side: nothing that it asks holds here.
            log.info(*log_event("stale_handoff_message", peer=peer_id[0]))

    def _feed_key(self, key: Key, event: state.Event) -> None:
        entry = self._by_key.get(key)
        if entry is not None:
            self._feed(entry, event)

    def _feed_if_dead(self, entry: Entry) -> None:
        """Say at the start what the peer's other handoffs have been told."""
        peer = self._peers.find(entry.peer_id)
        if peer is not None and peer.died_at is not None:
            self._feed(entry, state.PeerDead())

    def _feed_peer(self, peer: Peer, event: state.Event) -> None:
        for entry in list(self._entries.values()):
            if entry.peer_id == peer.peer_id:
                self._feed(entry, event)

    def _feed(self, entry: Entry, event: state.Event) -> None:
        """Give a machine an event, do what it says, and book its end."""
        if self._closed:
            return
        for action in entry.machine.handle(event, self._clock()):
            self._effects.do(entry, action)
        handoff_id = entry.machine.identity.handoff_id
        if not entry.machine.closed or handoff_id not in self._open:
            return
        del self._open[handoff_id]
        del self._by_key[entry.key]
        entry.request = None
        self._ended.append((self._clock() + REMEMBER_S, handoff_id))
        if self._effects.queue.pop(handoff_id, None) is not None:
            # It was in others' way.
            self.room_freed()


def _unsettled(entry: Entry) -> bool:
    """A write may still land, here or at the peer."""
    if isinstance(entry.machine, SourceHandoff):
        return entry.machine.may_land
    return entry.machine.state is TargetState.QUARANTINED
