"""Carries out what the state machines ask for, through the host, the transport and the peers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from baton.core.clock import Clock
from baton.core.errors import BatonError, HandoffError
from baton.core.kv import Arena
from baton.core.settings import TransferSettings
from baton.telemetry.logging import event as log_event
from baton.transfer import state
from baton.transfer.base import Transport, WriteResult
from baton.transfer.codec import Codec
from baton.transfer.entry import Entry
from baton.transfer.peers import Peers
from baton.transfer.source_state import SourceHandoff
from baton.transfer.verifier import Verifier
from baton.transfer.wire_codec import choose

log = logging.getLogger(__name__)


Feed = Callable[[Entry, state.Event], None]


class Effects:
    """`feed` takes back what came of an action: at once, or later on the loop thread."""

    def __init__(
        self,
        transport: Transport,
        arenas: Sequence[Arena],
        codecs: Sequence[Codec],
        peers: Peers,
        do: Callable[[Callable[[], None]], None],
        settings: TransferSettings,
        feed: Feed,
        clock: Clock,
    ) -> None:
        """`do` brings back to the loop what came of writes and checks."""
        self._transport = transport
        self._codecs = tuple(codecs)
        self._peers = peers
        self._do = do
        self._settings = settings
        self._feed = feed
        self._clock = clock
        self._verifier = Verifier(arenas, do, codecs)
        # Targets that found no room, oldest first.
        self.queue: dict[bytes, Entry] = {}
        self.num_quarantined = 0

    def close(self) -> None:
        self._verifier.close()

    def do(self, entry: Entry, action: state.Action) -> None:
        """Carry out one action. Those that answer at once come last in their list."""
        _DO[type(action)](self, entry, action)

    def _send(self, entry: Entry, action: state.Send) -> None:
        self._peers.send(entry.peer_id, action.message)

    def _report(self, entry: Entry, action: state.Report) -> None:
        if action.error is not None:
            self._report_failure(entry, action.error, in_doubt=action.in_doubt)
        elif action.withdrawn:
            entry.host.withdrawn(entry.key)
        else:
            action.timing.transport = self._transport.name
            entry.host.handed_off(entry.key, action.timing)

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

    def _granted(self, entry: Entry, action: state.Granted) -> None:
        entry.host.granted(entry.key)

    def _release(self, entry: Entry, action: state.Release) -> None:
        entry.host.release(entry.key)

    def _stop_move(self, entry: Entry, action: state.StopMove) -> None:
        stop = entry.host.stop_move(entry.key)
        if stop is not None:
            self._feed(entry, state.Stopped(stop))

    def _write(self, entry: Entry, action: state.Write) -> None:
        def done(result: WriteResult) -> None:
            written = state.Written(action.write_id, result, self._clock())
            self._do(lambda: self._feed(entry, written))

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
            theirs,
            done,
            is_encoded=bool(action.codec),
        )

    def _expect(self, entry: Entry, action: state.Expect) -> None:
        self._transport.expect(entry.key, action.groups)

    def _adopt(self, entry: Entry, action: state.Adopt) -> None:
        self._transport.unexpect(entry.key)
        entry.host.adopt(entry.key, action.outputs)

    def _unreserve(self, entry: Entry, action: state.Unreserve) -> None:
        if entry.check is not None:
            # Whoever gets the blocks next must not find them decoded.
            entry.check.stop()
        if action.quarantine:
            entry.num_quarantined = action.num_blocks
            self.num_quarantined += action.num_blocks
        self._transport.unexpect(entry.key)
        entry.host.unreserve(entry.key, quarantine=action.quarantine)

    def _lift(self, entry: Entry, action: state.Lift) -> None:
        self.num_quarantined -= entry.num_quarantined
        entry.num_quarantined = 0
        entry.host.lift_quarantine(entry.key)


_DO: dict[type, Callable[[Effects, Entry, Any], None]] = {
    state.Send: Effects._send,
    state.Write: Effects._write,
    state.Granted: Effects._granted,
    state.Release: Effects._release,
    state.StopMove: Effects._stop_move,
    state.Reserve: Effects._reserve,
    state.Expect: Effects._expect,
    state.Verify: Effects._verify,
    state.Adopt: Effects._adopt,
    state.Unreserve: Effects._unreserve,
    state.Lift: Effects._lift,
    state.Report: Effects._report,
}
