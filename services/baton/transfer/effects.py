"""Carries out what the state machines ask for, through the host, the transport and the peers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from baton.core.clock import Clock
from baton.core.errors import BatonError, HandoffError
from baton.core.request import Request
from baton.core.settings import TransferSettings
from baton.telemetry.logging import event as log_event
from baton.transfer import state
from baton.transfer.base import Arena, HandoffHost, Key, Transport, WriteResult
from baton.transfer.checksum import common_algorithm
from baton.transfer.codec import Codec
from baton.transfer.peers import PeerId, Peers
from baton.transfer.source_state import SourceHandoff
from baton.transfer.target_state import TargetHandoff
from baton.transfer.verifier import Check, Verifier
from baton.transfer.wire_codec import choose

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Entry:
    """A handoff's machine, and whom it concerns."""

    key: Key
    machine: SourceHandoff | TargetHandoff
    peer_id: PeerId
    request_id: str
    # None once it has ended: prompts are long, and ended handoffs are kept for a while.
    request: Request | None
    host: HandoffHost
    num_quarantined: int = 0
    # Target: what may be decoding its blocks.
    check: Check | None = None


Feed = Callable[[Entry, state.Event], None]


class Effects:
    """`feed` takes back what came of an action: at once, or later on the loop thread."""

    def __init__(
        self,
        transport: Transport,
        arenas: Sequence[Arena],
        codecs: Sequence[Codec],
        peers: Peers,
        post: Callable[[Callable[[], None]], None],
        settings: TransferSettings,
        feed: Feed,
        clock: Clock,
    ) -> None:
        self._transport = transport
        self._arenas = tuple(arenas)
        self._codecs = tuple(codecs)
        self._peers = peers
        self._post = post
        self._settings = settings
        self._feed = feed
        self._clock = clock
        self._verifier = Verifier(arenas, post, codecs)
        # Targets that found no room, oldest first.
        self.queue: dict[bytes, Entry] = {}
        self.num_quarantined = 0

    def close(self) -> None:
        self._verifier.close()

    def do(self, entry: Entry, action: state.Action) -> None:
        """Carry out one action. Those that answer at once come last in their list."""
        host, key = entry.host, entry.key
        match action:
            case state.Send(message):
                self._peers.send(entry.peer_id, message)
            case state.Write():
                self._write(entry, action)
            case state.Granted():
                host.granted(key)
            case state.Release():
                host.release(key)
            case state.StopMove():
                stop = host.stop_move(key)
                if stop is not None:
                    self._feed(entry, state.Stopped(stop))
            case state.Reserve():
                self._reserve(entry, action)
            case state.Expect(groups):
                self._transport.expect(key, groups)
            case state.Verify():
                self._verify(entry, action)
            case state.Adopt(outputs):
                self._transport.unexpect(key)
                host.adopt(key, outputs)
            case state.Unreserve(quarantine, num_blocks):
                if entry.check is not None:
                    # Whoever gets the blocks next must not find them decoded.
                    entry.check.stop()
                if quarantine:
                    entry.num_quarantined = num_blocks
                    self.num_quarantined += num_blocks
                self._transport.unexpect(key)
                host.unreserve(key, quarantine=quarantine)
            case state.Lift():
                self.num_quarantined -= entry.num_quarantined
                entry.num_quarantined = 0
                host.lift_quarantine(key)
            case state.Report(error, timing):
                if error is not None:
                    self._report_failure(entry, error, in_doubt=action.in_doubt)
                elif action.withdrawn:
                    host.withdrawn(key)
                else:
                    host.handed_off(key, replace(timing, transport=self._transport.name))

    def _report_failure(self, entry: Entry, error: BatonError, *, in_doubt: bool) -> None:
        log.warning(
            *log_event(
                "handoff_failed",
                handoff=entry.machine.identity.handoff_id.hex(),
                request_id=entry.request_id,
                side="source" if isinstance(entry.machine, SourceHandoff) else "target",
                peer=entry.peer_id[0],
                code=error.code,
                reason=error.message,
            )
        )
        if in_doubt:
            entry.host.in_doubt(entry.key, error)
        else:
            entry.host.failed(entry.key, error)

    # --- source ---

    def _write(self, entry: Entry, action: state.Write) -> None:
        def done(result: WriteResult) -> None:
            written = state.Written(action.write_id, result, self._clock())
            self._post(lambda: self._feed(entry, written))

        try:
            if self._peers.transport_epoch(entry.peer_id) != action.transport_epoch:
                raise HandoffError("the target's transport is not the one that was granted for")
            self._transport.send(entry.peer_id[0], action.writes, done, self._settings.write_wait_s)
        except HandoffError as error:
            done(WriteResult((), 0, error=error.message))

    # --- target ---

    def _reserve(self, entry: Entry, action: state.Reserve) -> None:
        handoff_id = entry.machine.identity.handoff_id
        assert entry.request is not None, "it has not ended"
        if self.queue and next(iter(self.queue)) != handoff_id:
            # Others wait already; a small offer must not starve a large one.
            self.queue[handoff_id] = entry
            self._feed(entry, state.NoRoom())
            return
        try:
            groups = entry.host.reserve(
                entry.key,
                entry.request,
                action.num_tokens,
                action.hashes,
                action.num_blocks,
                action.growth_tokens,
            )
        except BatonError as error:
            self.queue.pop(handoff_id, None)
            self._feed(entry, state.Refused(error))
            return
        if groups is None:
            self.queue[handoff_id] = entry
            self._feed(entry, state.NoRoom())
        else:
            self.queue.pop(handoff_id, None)
            codec = choose(action.codecs, self._codecs)
            self._feed(entry, state.Reserved(groups, self._transport.transport_epoch, codec))

    def _verify(self, entry: Entry, action: state.Verify) -> None:
        try:
            entry.host.check_commit(entry.key, action.outputs, action.hashes, action.num_blocks)
        except BatonError as error:
            self._feed(entry, state.Refused(error))
            return
        peer = self._peers.find(entry.peer_id)
        theirs = peer.hello.arenas if peer is not None and peer.hello is not None else ()

        def done(problem: str | None) -> None:
            entry.check = None
            self._feed(entry, state.Verified(problem))

        entry.check = self._verifier.check(
            action.checks,
            common_algorithm(self._arenas, theirs),
            done,
            is_encoded=bool(action.codec),
        )
