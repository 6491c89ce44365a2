"""All handoffs of a worker: carries out what their state machines ask for.

Everything but `serve` is called on the worker's loop thread. Streams live on the asyncio thread,
writes and checks on threads of their own; all of them come back through `post`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from baton.core.clock import Clock, monotonic
from baton.core.errors import BatonError, InvalidRequestError
from baton.core.handoff import BlocksReady, Key, MoveStopped, OfferDue, SourceOutput
from baton.core.kv import Arena, GroupSpec
from baton.core.request import Request
from baton.core.settings import TransferSettings
from baton.telemetry.logging import event as log_event
from baton.transfer import state
from baton.transfer.base import HandoffHost, Transport
from baton.transfer.effects import Effects
from baton.transfer.entries import Entries
from baton.transfer.entry import Entry
from baton.transfer.fetching import FetchHost, Fetching
from baton.transfer.hello import Greeter
from baton.transfer.links import AcceptedStream, Links, Message
from baton.transfer.parking import Parking
from baton.transfer.peers import Peer, PeerId, Peers
from baton.transfer.preflight import warn_of_fabric
from baton.transfer.quarantine import Quarantine
from baton.transfer.source_state import SourceHandoff
from baton.transfer.target_state import TargetHandoff
from baton.transfer.wire_codec import wire_codecs
from baton.v1 import common_pb2, worker_pb2

log = logging.getLogger(__name__)


class Handoffs:
    """The handoffs in which this worker is source or target.

    `post(work)` runs `work` on the loop thread soon; `do`, if there is one, may run it at once, on
    whatever thread, while the loop thread waits. `loop` is the asyncio loop of the streams.
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
        self._entries = Entries()
        self._host = host
        self._settings = settings
        self._clock = clock
        self._link_changed = link_changed
        self._greeter = Greeter(me, digest, groups, arenas, transport)
        self._peers = Peers(transport, self._greeter, self, self._dial, clock, self._measured)
        self._links = Links(self._greeter, token, loop, post, do or post, self._peers)
        codecs = wire_codecs(settings, groups, arenas)
        self._effects = Effects(
            transport, arenas, codecs, self._peers, do or post, settings, self._feed, clock
        )
        self._fetching = Fetching(
            me,
            len(groups),
            fetch_host,
            self._peers,
            settings,
            transport.codecs,
            clock,
            self._entries.add,
            self._feed,
        )
        self._parking = Parking(settings.offer_wait_s)
        self._quarantine = Quarantine(
            transport,
            self._greeter,
            self._peers,
            self._entries,
            settings,
            sum(arena.num_blocks for arena in arenas),
            self._feed,
        )
        self._closed = False

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
        known = self._entries.find(identity.handoff_id) or self._entries.find_open(key)
        if known is not None:
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
        self._entries.add(entry)
        return entry

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
        entry = self._entries.find_open(key)
        if entry is not None:
            self._feed_if_dead(entry)

    def offer(self, due: OfferDue) -> None:
        """The engine has scheduled a source's prompt, or begins to move a sequence."""
        # A sequence that is moved would stand still while its blocks are decoded.
        codecs = () if due.growth_tokens else self._transport.codecs
        self._feed_key(
            due.key,
            state.Due(due.num_tokens, due.hashes, due.num_blocks, due.growth_tokens, codecs),
        )

    def blocks_ready(
        self, ready: BlocksReady, outputs: Mapping[int, SourceOutput] | None = None
    ) -> None:
        """A source's blocks are final, or a part of them; `outputs` are there when `done`."""
        outputs = (outputs or {}) if ready.done else None
        event = state.Ready(
            ready.first_index, ready.block_ids, outputs, ready.part, ready.num_parts
        )
        self._feed_key(ready.key, event)

    def move_stopped(self, stopped: MoveStopped) -> None:
        """A sequence that is moved computes no further, or has ended."""
        self._feed_key(stopped.key, state.Stopped(stopped))

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

    @property
    def holds_up(self) -> bool:
        """A sequence stands still until a write or a check of ours ends, which is a moment."""
        return any(entry.machine.holds_up for entry in self._entries.open.values())

    def peers(self) -> list[worker_pb2.PeerLink]:
        """The workers that KV moves to and from. From any thread."""
        links = (peer.link(self._transport.name) for peer in self._peers.all())
        return [link for link in links if link is not None]

    @property
    def must_restart(self) -> bool:
        """Too many blocks are in quarantine, and recreating the transport cannot free them."""
        return self._quarantine.must_restart

    @property
    def num_quarantined_blocks(self) -> int:
        """Blocks set aside because a peer may still write to them."""
        return self._effects.num_quarantined

    def close(self) -> None:
        """Stop speaking, and hear no more. The worker is about to leave."""
        self._closed = True
        self._links.close()
        self._effects.close()

    async def serve(self, stream: AcceptedStream) -> None:
        """`TransferService.Handoff`: one stream per peer. On the asyncio thread."""
        await self._links.serve(stream)

    # --- time ---

    def tick(self) -> None:
        """Look at every deadline that has passed."""
        self._peers.tick()
        now = self._clock()
        for entry in list(self._entries.open.values()):
            if entry.machine.due_at <= now:
                self._feed(entry, state.Tick())
        for peer_id, refusal in self._parking.expire(now):
            self._peers.send(peer_id, refusal)
        for entry in self._entries.forget(now):
            self._feed(entry, state.Fenced() if self._is_fenced(entry) else state.Tick())
        self._quarantine.watch(self.num_quarantined_blocks, now)

    def next_deadline(self) -> float | None:
        """When `tick` is wanted, at the latest."""
        due = self._peers.next_deadline()
        for entry in self._entries.open.values():
            at = entry.machine.due_at
            if due is None or at < due:
                due = at
        return due

    def _is_fenced(self, entry: Entry) -> bool:
        """Our writes went to an agent that is no more, and without which they get nowhere."""
        return (
            isinstance(entry.machine, SourceHandoff)
            and self._peers.transport_epoch(entry.peer_id)
            not in (None, entry.machine.transport_epoch)
            and self._quarantine.fences(entry.peer_id)
        )

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
            not entry.machine.closed or entry.is_unsettled
            for entry in self._entries.of_peer(peer.peer_id)
        )

    # --- events to machines ---

    def _receive(self, peer_id: PeerId, message: Message) -> None:
        if self._closed:
            return
        entry = self._entries.find(message.handoff_id)
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
        entry = self._entries.find_open(key)
        if entry is not None:
            self._feed(entry, event)

    def _feed_if_dead(self, entry: Entry) -> None:
        """Say at the start what the peer's other handoffs have been told."""
        peer = self._peers.find(entry.peer_id)
        if peer is not None and peer.died_at is not None:
            self._feed(entry, state.PeerDead())

    def _feed_peer(self, peer: Peer, event: state.Event) -> None:
        for entry in self._entries.of_peer(peer.peer_id):
            self._feed(entry, event)

    def _feed(self, entry: Entry, event: state.Event) -> None:
        """Give a machine an event, do what it says, and book its end."""
        if self._closed:
            return
        for action in entry.machine.handle(event, self._clock()):
            self._effects.do(entry, action)
        if not entry.machine.closed or not self._entries.end(entry, self._clock()):
            return
        if self._effects.queue.pop(entry.handoff_id, None) is not None:
            # It was in others' way.
            self.room_freed()
