"""The source's half of a handoff, pure: it offers, writes what is granted, commits.

A sequence that is moved decodes on in SENDING until all its blocks so far are written (or it has no
room to grow left); then it stops, and its last blocks follow.

```
WAITING -due-> OFFERED -grant-> SENDING -all written-> COMMITTED -accepted-> DONE
   any of them, failed:   no write in flight -> DONE
                          else SETTLING -last write settled, or given up-> DONE
```

Blocks are unpinned at DONE only. Quiesced is said when no write can land any more, which for a
write that was given up may be long after DONE; `may_land` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import StrEnum
from typing import Any

from baton.core.errors import BatonError, CancelledRequestError, DeadlineExceededError, HandoffError
from baton.core.settings import TransferSettings
from baton.transfer import messages
from baton.transfer.base import HandoffTiming
from baton.transfer.phases import Phases
from baton.transfer.source_books import SourceBooks
from baton.transfer.state import (
    UNKNOWN,
    Action,
    Body,
    ComputeFailed,
    Due,
    Event,
    Granted,
    Identity,
    PeerLost,
    Ready,
    Received,
    Recreated,
    Release,
    Report,
    Send,
    Stop,
    StopMove,
    Stopped,
    Write,
    Written,
    error_from_peer,
)
from baton.v1 import transfer_pb2

# A source at work says so this often within the target's patience for a commit.
KEEPALIVES = 3


class SourceState(StrEnum):
    WAITING = "waiting"  # for the engine to schedule the prompt
    OFFERED = "offered"  # for a grant
    SENDING = "sending"  # computing and writing
    COMMITTED = "committed"  # for the target's verdict
    SETTLING = "settling"  # failed; a write is in flight
    DONE = "done"


class SourceHandoff:
    """One handoff at its source. `due_at` is when it wants a Tick."""

    def __init__(
        self,
        identity: Identity,
        choices: Collection[int],
        deadline: float,
        settings: TransferSettings,
    ) -> None:
        self.identity = identity
        self.state = SourceState.WAITING
        self.due_at = deadline
        self._deadline = deadline
        self._choices = frozenset(choices)
        self._settings = settings
        self._books = SourceBooks()
        self._phases = Phases()
        self._stop_asked = False
        self._asked = 0
        # Why it failed, for a target that has not heard; None after success.
        self._failure: BatonError | None = None
        self._withdrawn = False

    @property
    def closed(self) -> bool:
        """The host has been told how it ended, and its blocks are unpinned."""
        return self.state is SourceState.DONE

    @property
    def holds_up(self) -> bool:
        """A sequence stands still until its last blocks are written."""
        return self.state is SourceState.SENDING and self._books.has_stopped

    @property
    def may_land(self) -> bool:
        """A write of this handoff may still reach the target's memory."""
        return self._books.ledger.may_land

    @property
    def transport_epoch(self) -> int:
        """Of the target's agent that the writes went through."""
        return self._books.ledger.transport_epoch

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take an event; the actions are to be done in order."""
        step = TABLE.get((self.state, event.kind))
        actions = step(self, event, now) if step else []
        if self.closed and not self.may_land:
            # It is remembered for a while; its lists of blocks and hashes need not be.
            self._books.close()
        return actions

    # --- the way to the commit ---

    def _schedule(self, event: Due, now: float) -> list[Action]:
        self._books.schedule(event)
        self._phases.offered_at = now
        self._move(SourceState.OFFERED, now + self._settings.grant_wait_s)
        return self._offer(event, now)

    def _offer(self, event: Event, now: float) -> list[Action]:
        left = self._phases.offered_at + self._settings.grant_wait_s - now
        return [self._send("offer", messages.offer_body(self._books.due, self._choices, left))]

    def _ready(self, event: Ready, now: float) -> list[Action]:
        self._books.add_ready(event, now)
        return self._advance(now)

    def _stopped(self, event: Stopped, now: float) -> list[Action]:
        self._books.stop(event.stop, now)
        self._move(self.state, now + self._settings.stop_wait_s)
        return self._advance(now)

    def _grant(self, event: Received, now: float) -> list[Action]:
        is_first = self.state is SourceState.OFFERED
        try:
            self._books.add_grant(event.message.grant, is_first=is_first)
        except HandoffError as error:
            return self._fail(error, now)
        if not is_first:
            return self._advance(now)
        self._phases.granted_at = now
        self._move(SourceState.SENDING, now + self._keepalive_s)
        return [Granted(), *self._advance(now)]

    def _written(self, event: Written, now: float) -> list[Action]:
        if not self._books.settle(event):
            return []
        problem = event.result.error
        if problem is None:
            return self._advance(now)
        again = self._books.ledger.again(event.write_id) if event.result.quiesced else None
        if again is not None:
            return self._start(again, now)
        return self._fail(
            HandoffError(f"writing to the target failed: {problem}", reason="write_failed"), now
        )

    def _advance(self, now: float) -> list[Action]:
        """Write what can be written; commit or withdraw when there is nothing left to write."""
        books = self._books
        if books.has_finished:
            return [] if books.ledger.in_flight else self._withdraw(now)
        if self.state is not SourceState.SENDING:
            return []
        write = books.ledger.take_sendable()
        if write is not None:
            return self._start(write, now)
        if books.ledger.in_flight:
            return []
        if books.outputs is None:
            return self._caught_up()
        if not books.ledger.complete:
            return []
        self._phases.committed_at = now
        self._move(SourceState.COMMITTED, now + self._settings.accept_wait_s)
        return self._commit(None, now)

    def _start(self, write: Write, now: float) -> list[Action]:
        self._books.start(write, now)
        return [write]

    def _caught_up(self) -> list[Action]:
        """All that is final is written: let a sequence that decodes on stop, once."""
        if not self._books.due.growth_tokens or self._stop_asked:
            return []
        self._stop_asked = True
        return [StopMove()]

    def _commit(self, event: Event | None, now: float) -> list[Action]:
        return [self._send("commit", self._books.commit_body())]

    def _withdraw(self, now: float) -> list[Action]:
        """Every choice ended with its first token: there is nothing to adopt."""
        self._withdrawn = True
        self._phases.committed_at = now
        self._move(SourceState.DONE, float("inf"))
        return [
            self._send("withdraw", transfer_pb2.Withdraw()),
            Release(),
            Report(None, self._timing(now), withdrawn=True),
        ]

    # --- after the commit ---

    def _accepted(self, event: Received, now: float) -> list[Action]:
        self._move(SourceState.DONE, float("inf"))
        return [Release(), Report(None, self._timing(now))]

    def _ask(self, event: Event | None, now: float) -> list[Action]:
        return [self._send("status", transfer_pb2.Status())]

    # --- time ---

    def _tick(self, event: Event, now: float) -> list[Action]:
        if now < self.due_at:
            return []
        if now >= self._deadline and self.state is not SourceState.SETTLING:
            return self._fail(DeadlineExceededError("the request's deadline passed"), now)
        return _ON_TIMEOUT[self.state](self, now)

    def _no_grant(self, now: float) -> list[Action]:
        wait = self._settings.grant_wait_s
        return self._fail(
            HandoffError(f"the target granted no room within {wait:g} s", reason="no_grant"), now
        )

    def _keep_alive(self, now: float) -> list[Action]:
        if self._books.has_stopped:
            # Its client waits. It can go on here, whatever becomes of the write.
            wait = self._settings.stop_wait_s
            return self._fail(
                HandoffError(
                    f"the last blocks took longer than {wait:g} s", reason="stopped_too_long"
                ),
                now,
            )
        self._move(SourceState.SENDING, now + self._keepalive_s)
        return self._ask(None, now)

    def _no_verdict(self, now: float) -> list[Action]:
        if self._asked >= self._settings.status_tries:
            return self._fail(
                HandoffError("the target did not say whether it accepted", reason="no_verdict"), now
            )
        self._asked += 1
        self._move(SourceState.COMMITTED, now + self._settings.accept_wait_s)
        return self._ask(None, now)

    def _give_up_settling(self, now: float) -> list[Action]:
        """Free our blocks, from which a hanging write can only read; the target's stay apart."""
        self._move(SourceState.DONE, float("inf"))
        return [Release()]

    # --- the ways to fail ---

    def _rejected(self, event: Received, now: float) -> list[Action]:
        rejected = event.message.rejected
        error = error_from_peer(rejected.code, f"the target refused: {rejected.message}")
        # A target that has forgotten the handoff cannot tell what it did.
        return self._fail(error, now, tell="quiesced", refused=rejected.code != UNKNOWN)

    def _target_failed(self, event: Received, now: float) -> list[Action]:
        fail = event.message.fail
        error = error_from_peer(fail.code, f"the target failed: {fail.message}")
        return self._fail(error, now, tell="quiesced")

    def _target_cancelled(self, event: Received, now: float) -> list[Action]:
        reason = event.message.cancel.reason
        error = HandoffError(f"the target gave up: {reason}", reason="cancelled")
        return self._fail(error, now, tell="quiesced", refused=True)

    def _peer_lost(self, event: PeerLost, now: float) -> list[Action]:
        return self._fail(
            HandoffError(f"the target cannot be reached: {event.reason}", reason="peer_lost"), now
        )

    def _peer_dead(self, event: Event, now: float) -> list[Action]:
        self._books.ledger.write_off()
        if self.state is SourceState.DONE:
            return []
        if self.state is SourceState.SETTLING:
            return self._give_up_settling(now)
        return self._fail(HandoffError("the target's process died", reason="peer_dead"), now)

    def _recreated(self, event: Recreated, now: float) -> list[Action]:
        return self._fail(
            HandoffError("this worker's transport was recreated", reason="recreated"), now
        )

    def _compute_failed(self, event: ComputeFailed, now: float) -> list[Action]:
        return self._fail(event.error, now, report=False)

    def _stop(self, event: Stop, now: float) -> list[Action]:
        error = CancelledRequestError(event.reason)
        return self._fail(error, now, tell="cancel", report=False)

    def _fail(
        self,
        error: BatonError,
        now: float,
        *,
        tell: Body = "fail",
        report: bool = True,
        refused: bool = False,
    ) -> list[Action]:
        """End it. `tell` is how the target hears: fail, cancel, or quiesced as an answer.

        `refused`: the target has said that it adopts nothing.
        """
        self._failure = error
        quiet = not self._books.ledger.may_land
        actions: list[Action] = []
        if tell == "fail":
            actions.append(self._send_fail(error))
        elif tell == "cancel":
            actions.append(self._send("cancel", transfer_pb2.CancelHandoff(reason=str(error))))
        if quiet and tell != "fail":
            actions.append(self._send("quiesced", transfer_pb2.Quiesced()))
        if report:
            in_doubt = self.state is SourceState.COMMITTED and not refused
            actions.append(Report(error, self._timing(now), in_doubt=in_doubt))
        if self._books.ledger.in_flight:
            self._move(SourceState.SETTLING, now + self._settings.write_wait_s, bounded=False)
            return actions
        self._move(SourceState.DONE, float("inf"))
        return [*actions, Release()]

    # --- after the end ---

    def _settle(self, event: Written, now: float) -> list[Action]:
        """Failed already; blocks are free when the last write is, here and on the target."""
        mattered = self._books.ledger.may_land
        self._books.settle(event)
        actions: list[Action] = []
        if self.state is SourceState.SETTLING and not self._books.ledger.in_flight:
            self._move(SourceState.DONE, float("inf"))
            actions.append(Release())
        if mattered and not self._books.ledger.may_land:
            actions.append(self._send("quiesced", transfer_pb2.Quiesced()))
        return actions

    def _agent_gone(self, event: Recreated, now: float) -> list[Action]:
        """Our agent reads our blocks no more. What it had sent may be on its way still."""
        return self._give_up_settling(now)

    def _write_off(self, event: Event, now: float) -> list[Action]:
        if not self.may_land:
            return []
        self._books.ledger.write_off()
        return self._say_quiesced(event, now)

    def _say_quiesced(self, event: Event, now: float) -> list[Action]:
        if self._books.ledger.may_land:
            return []
        return [self._send("quiesced", transfer_pb2.Quiesced())]

    def _repeat_end(self, event: Event, now: float) -> list[Action]:
        """Tell a target that may not have heard how it ended."""
        if self._withdrawn:
            return [self._send("withdraw", transfer_pb2.Withdraw())]
        return [self._send_fail(self._failure)] if self._failure else []

    # --- small parts ---

    @property
    def _keepalive_s(self) -> float:
        return self._settings.commit_wait_s / KEEPALIVES

    def _send(self, body: Body, content: Any) -> Send:
        return Send(self.identity.message(body, content))

    def _send_fail(self, error: BatonError) -> Send:
        quiesced = not self._books.ledger.may_land
        body = transfer_pb2.Fail(code=error.code, message=error.message, quiesced=quiesced)
        return self._send("fail", body)

    def _move(self, state: SourceState, due_at: float, *, bounded: bool = True) -> None:
        self.state = state
        self.due_at = min(due_at, self._deadline) if bounded and not self.closed else due_at

    def _timing(self, now: float) -> HandoffTiming:
        phases, overlap = self._phases, self._books.overlap
        return HandoffTiming(
            grant_wait_s=phases.grant_wait_s(now),
            transfer_s=overlap.busy_s,
            verify_s=phases.verify_s(now),
            num_bytes=self._books.ledger.num_bytes,
            hidden_bytes=overlap.hidden_bytes,
            exposed_s=overlap.exposed_s,
        )


_S = SourceState
_M = SourceHandoff
_Step = Callable[[SourceHandoff, Any, float], list[Action]]

_ON_TIMEOUT: dict[SourceState, Callable[[SourceHandoff, float], list[Action]]] = {
    # The request's deadline is the only one here, and is looked at before.
    _S.WAITING: lambda machine, now: [],
    _S.OFFERED: _M._no_grant,
    _S.SENDING: _M._keep_alive,
    _S.COMMITTED: _M._no_verdict,
    _S.SETTLING: _M._give_up_settling,
}


def _table() -> dict[tuple[SourceState, str], _Step]:
    table: dict[tuple[SourceState, str], _Step] = {}
    live = (_S.WAITING, _S.OFFERED, _S.SENDING, _S.COMMITTED)
    for state in live:
        table |= {
            (state, "rejected"): _M._rejected,
            (state, "fail"): _M._target_failed,
            (state, "cancel"): _M._target_cancelled,
            (state, "peer_lost"): _M._peer_lost,
            (state, "peer_dead"): _M._peer_dead,
            (state, "compute_failed"): _M._compute_failed,
            (state, "stop"): _M._stop,
            (state, "tick"): _M._tick,
        }
    return table | {
        (_S.WAITING, "due"): _M._schedule,
        (_S.OFFERED, "peer_up"): _M._offer,
        (_S.OFFERED, "ready"): _M._ready,
        # It ended before there was a grant.
        (_S.OFFERED, "stopped"): _M._stopped,
        (_S.OFFERED, "grant"): _M._grant,
        (_S.SENDING, "ready"): _M._ready,
        (_S.SENDING, "stopped"): _M._stopped,
        (_S.SENDING, "grant"): _M._grant,
        (_S.SENDING, "written"): _M._written,
        (_S.SENDING, "peer_up"): _M._ask,
        (_S.SENDING, "recreated"): _M._recreated,
        (_S.COMMITTED, "accepted"): _M._accepted,
        (_S.COMMITTED, "peer_up"): _M._ask,
        # A target that answers Status with its grant has not had the commit.
        (_S.COMMITTED, "grant"): _M._commit,
        (_S.SETTLING, "written"): _M._settle,
        (_S.SETTLING, "tick"): _M._tick,
        (_S.SETTLING, "grant"): _M._repeat_end,
        (_S.SETTLING, "peer_up"): _M._repeat_end,
        (_S.SETTLING, "peer_dead"): _M._peer_dead,
        (_S.SETTLING, "recreated"): _M._agent_gone,
        (_S.DONE, "written"): _M._settle,
        (_S.DONE, "peer_dead"): _M._peer_dead,
        (_S.DONE, "fenced"): _M._write_off,
        (_S.DONE, "cancel"): _M._say_quiesced,
        (_S.DONE, "rejected"): _M._say_quiesced,
        (_S.DONE, "grant"): _M._repeat_end,
        (_S.DONE, "peer_up"): _M._repeat_end,
    }


TABLE = _table()
