"""The target's half of a handoff, pure: it reserves, grants, verifies, adopts.

```
EXPECTING -offer-> (room?) -> GRANTED -commit-> VERIFYING -blocks are right-> DONE
                      no -> QUEUED -room freed-> GRANTED
   GRANTED, failed:  the source may still write -> QUARANTINED -proof that it cannot-> DONE
   any other, failed: -> DONE
```

The reuse rule lives here: blocks once granted are free again only when the source has said that
nothing is in flight (Quiesced, Fail(quiesced), Withdraw, or Commit, which says that every write is
done), when its process is known dead, or when our agent was recreated and that fenced its writes.
Blocks become readable by Adopt alone, which follows Verified(None) alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import Any

from baton.core.errors import (
    BatonError,
    CancelledRequestError,
    DeadlineExceededError,
    HandoffError,
    InvalidRequestError,
    OverloadedError,
)
from baton.core.handoff import ReservedGroup, SourceOutput
from baton.core.settings import TransferSettings
from baton.transfer import messages
from baton.transfer.base import HandoffTiming
from baton.transfer.phases import Phases
from baton.transfer.state import (
    Action,
    Adopt,
    Body,
    Event,
    Expect,
    Identity,
    Lift,
    PeerLost,
    Received,
    Recreated,
    Refused,
    Report,
    Reserve,
    Reserved,
    Send,
    Stop,
    Unreserve,
    Verified,
    error_from_peer,
)
from baton.transfer.verdict import CHECKSUM_MISMATCH, Verdict
from baton.v1 import transfer_pb2


class TargetState(StrEnum):
    EXPECTING = "expecting"  # the offer
    QUEUED = "queued"  # offered; waits for room
    GRANTED = "granted"  # the source may write
    VERIFYING = "verifying"  # all writes are done, and are being checked
    QUARANTINED = "quarantined"  # failed; the source may still write
    DONE = "done"


class TargetHandoff:
    """One handoff at its target. `due_at` is when it wants a Tick."""

    def __init__(
        self,
        identity: Identity,
        choices: Collection[int],
        num_groups: int,
        deadline: float,
        settings: TransferSettings,
        now: float,
        fetch: transfer_pb2.Fetch | None = None,
    ) -> None:
        """`fetch` asks the source for its Offer; there are no choices then."""
        self.identity = identity
        self._fetch = fetch
        self.state = TargetState.EXPECTING
        self._deadline = deadline
        self._choices = frozenset(choices)
        self._num_groups = num_groups
        self._settings = settings
        self.due_at = min(deadline, now + settings.offer_wait_s)
        self._phases = Phases(submitted_at=now)
        self._wanted: Reserve | None = None
        self._reserved: tuple[ReservedGroup, ...] = ()
        self._grant: transfer_pb2.Grant | None = None
        self._outputs: Mapping[int, SourceOutput] = {}
        self._verdict = Verdict()

    @property
    def closed(self) -> bool:
        """The host has been told how it ended; its blocks are free or in quarantine."""
        return self.state in (TargetState.DONE, TargetState.QUARANTINED)

    @property
    def holds_up(self) -> bool:
        """A sequence stands still until its blocks are checked."""
        grows = self._wanted is not None and self._wanted.growth_tokens > 0
        return grows and self.state is TargetState.VERIFYING

    @property
    def num_granted(self) -> int:
        """Blocks that the source may write."""
        return sum(len(group.block_ids) - len(group.skip) for group in self._reserved)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take an event; the actions are to be done in order."""
        step = TABLE.get((self.state, event.kind))
        actions = step(self, event, now) if step else []
        if self.closed:
            # It is remembered for a while; its lists of blocks and hashes need not be.
            self._wanted = self._grant = None
            self._reserved, self._outputs = (), {}
        return actions

    # --- the way to the batch ---

    def _ask(self, event: Event, now: float) -> list[Action]:
        """Have the source offer what it has cached, unless its Offer comes by itself."""
        return [self._send("fetch", self._fetch)] if self._fetch is not None else []

    def _offer(self, event: Received, now: float) -> list[Action]:
        offer = event.message.offer
        most = self._settings.max_growth_tokens
        try:
            self._wanted = messages.read_offer(offer, self._choices, self._num_groups)
            if offer.growth_tokens > most:
                raise InvalidRequestError(
                    f"the offer has room for {offer.growth_tokens} more tokens; this worker takes "
                    f"{most} (transfer.max_growth_tokens)"
                )
        except BatonError as error:
            return self._fail(error, now)
        self._phases.offered_at = now
        self.due_at = min(self._deadline, now + offer.grant_wait_ms / 1000)
        return [self._wanted]

    def _queue(self, event: Event, now: float) -> list[Action]:
        self.state = TargetState.QUEUED
        return []

    def _try_again(self, event: Event, now: float) -> list[Action]:
        assert self._wanted is not None, "a queued offer has been read"
        return [self._wanted]

    def _refused(self, event: Refused, now: float) -> list[Action]:
        return self._fail(event.error, now)

    def _reserve(self, event: Reserved, now: float) -> list[Action]:
        self._reserved = event.groups
        self._grant = messages.grant_body(event.groups, event.transport_epoch, event.codec)
        self._phases.granted_at = now
        self.state = TargetState.GRANTED
        return [Expect(event.groups), *self._say_grant(event, now)]

    def _say_grant(self, event: Event, now: float) -> list[Action]:
        """Grant, or grant again: the source has shown that it is at work."""
        assert self._grant is not None, "room is reserved"
        self.due_at = min(self._deadline, now + self._settings.commit_wait_s)
        return [self._send("grant", self._grant)]

    def _commit(self, event: Received, now: float) -> list[Action]:
        assert self._wanted is not None and self._grant is not None, "granted"
        try:
            verify = messages.read_commit(
                event.message.commit,
                self._choices,
                self._grant.groups,
                self._wanted.hashes,
                checksums=self._settings.checksum == "always",
                grows=self._wanted.growth_tokens > 0,
                codec=self._grant.codec,
            )
        except HandoffError as error:
            # Who contradicts the grant may be writing elsewhere: wait for its Quiesced.
            return self._fail(error, now)
        self._outputs = verify.outputs
        self._phases.committed_at = now
        self.state = TargetState.VERIFYING
        self.due_at = min(self._deadline, now + self._settings.write_wait_s)
        return [verify]

    def _verified(self, event: Verified, now: float) -> list[Action]:
        if event.problem is not None:
            return self._fail(
                HandoffError(f"{CHECKSUM_MISMATCH}: {event.problem}", reason=CHECKSUM_MISMATCH), now
            )
        self.state = TargetState.DONE
        self.due_at = float("inf")
        self._verdict.adopt()
        return [
            Adopt(self._outputs),
            self._say_verdict(),
            Report(None, self._timing(now)),
        ]

    def _withdrawn(self, event: Event, now: float) -> list[Action]:
        """Every choice ended on the source: nothing to adopt, and nothing went wrong."""
        actions: list[Action] = []
        if self.state is TargetState.GRANTED:
            actions.append(Unreserve(False, self.num_granted))
        self.state = TargetState.DONE
        self.due_at = float("inf")
        return [*actions, Report(None, self._timing(now), withdrawn=True)]

    # --- the ways to fail ---

    def _tick(self, event: Event, now: float) -> list[Action]:
        if now < self.due_at:
            return []
        settings = self._settings
        if now >= self._deadline:
            error: BatonError = DeadlineExceededError("the request's deadline passed")
        elif self.state is TargetState.EXPECTING:
            error = HandoffError(
                f"the source offered nothing within {settings.offer_wait_s:g} s", reason="no_offer"
            )
        elif self.state is TargetState.QUEUED:
            error = OverloadedError("no free KV blocks for the handoff while the source waited")
        elif self.state is TargetState.GRANTED:
            error = HandoffError(
                f"no sign of the source for {settings.commit_wait_s:g} s", reason="no_commit"
            )
        else:
            error = HandoffError(
                "the committed blocks were not checked in time", reason="not_checked"
            )
        return self._fail(error, now)

    def _source_failed(self, event: Received, now: float) -> list[Action]:
        fail = event.message.fail
        error = error_from_peer(fail.code, f"the source failed: {fail.message}")
        return self._fail(error, now, answer=False, may_land=not fail.quiesced)

    def _source_cancelled(self, event: Received, now: float) -> list[Action]:
        error = HandoffError(
            f"the source gave up: {event.message.cancel.reason}", reason="cancelled"
        )
        return self._fail(error, now, answer=False)

    def _source_quiesced(self, event: Event, now: float) -> list[Action]:
        error = HandoffError("the source has ended the handoff", reason="cancelled")
        return self._fail(error, now, answer=False, may_land=False)

    def _peer_lost(self, event: PeerLost, now: float) -> list[Action]:
        error = HandoffError(f"the source cannot be reached: {event.reason}", reason="peer_lost")
        return self._fail(error, now, answer=False)

    def _peer_dead(self, event: Event, now: float) -> list[Action]:
        error = HandoffError("the source's process died", reason="peer_dead")
        return self._fail(error, now, answer=False, may_land=False)

    def _recreated(self, event: Recreated, now: float) -> list[Action]:
        error = HandoffError("this worker's transport was recreated", reason="recreated")
        return self._fail(error, now, may_land=not event.fenced)

    def _stop(self, event: Stop, now: float) -> list[Action]:
        return self._fail(CancelledRequestError(event.reason), now, report=False)

    def _fail(
        self,
        error: BatonError,
        now: float,
        *,
        answer: bool = True,
        may_land: bool = True,
        report: bool = True,
    ) -> list[Action]:
        """End it. `may_land`: the source has not said that nothing is in flight."""
        self._verdict.refuse(error)
        actions: list[Action] = []
        if answer:
            actions.append(self._say_verdict())
        end = TargetState.DONE
        if self.state in (TargetState.GRANTED, TargetState.VERIFYING):
            # A verified commit says that all writes are done, a grant of nothing allows none.
            writable = self.state is TargetState.GRANTED and self.num_granted > 0
            end = TargetState.QUARANTINED if writable and may_land else TargetState.DONE
            actions.append(Unreserve(end is TargetState.QUARANTINED, self.num_granted))
        if report:
            actions.append(Report(error, self._timing(now)))
        self.state = end
        quarantined = end is TargetState.QUARANTINED
        self.due_at = now + self._settings.commit_wait_s if quarantined else float("inf")
        return actions

    # --- after the end ---

    def _lift(self, event: Event, now: float) -> list[Action]:
        self.state = TargetState.DONE
        self.due_at = float("inf")
        return [Lift()]

    def _ask_again(self, event: Event, now: float) -> list[Action]:
        """Our last word, or the source's Quiesced, may be lost: without it blocks stay apart."""
        if now < self.due_at:
            return []
        self.due_at = now + self._settings.commit_wait_s
        return [self._say_verdict()]

    def _lift_if_quiesced(self, event: Received, now: float) -> list[Action]:
        return self._lift(event, now) if event.message.fail.quiesced else []

    def _lift_and_refuse(self, event: Event, now: float) -> list[Action]:
        return [*self._lift(event, now), self._say_verdict()]

    def _lift_if_fenced(self, event: Recreated, now: float) -> list[Action]:
        return self._lift(event, now) if event.fenced else []

    def _repeat_end(self, event: Event, now: float) -> list[Action]:
        """Tell a source that may not have heard how it ended."""
        return [self._say_verdict()] if self._verdict.is_reached else []

    def _repeat_failure(self, event: Event, now: float) -> list[Action]:
        return [] if self._verdict.adopted else self._repeat_end(event, now)

    # --- small parts ---

    def _say_verdict(self) -> Send:
        return self._send(*self._verdict.body())

    def _send(self, body: Body, content: Any) -> Send:
        return Send(self.identity.message(body, content))

    def _timing(self, now: float) -> HandoffTiming:
        phases = self._phases
        return HandoffTiming(
            offer_wait_s=phases.offer_wait_s(now),
            grant_wait_s=phases.grant_wait_s(now),
            transfer_s=phases.transfer_s(now),
            verify_s=phases.verify_s(now),
        )


_S = TargetState
_M = TargetHandoff
_Step = Callable[[TargetHandoff, Any, float], list[Action]]


def _table() -> dict[tuple[TargetState, str], _Step]:
    table: dict[tuple[TargetState, str], _Step] = {}
    for state in (_S.EXPECTING, _S.QUEUED, _S.GRANTED):
        table |= {
            (state, "withdraw"): _M._withdrawn,
            (state, "fail"): _M._source_failed,
            (state, "cancel"): _M._source_cancelled,
            (state, "quiesced"): _M._source_quiesced,
            (state, "peer_lost"): _M._peer_lost,
            (state, "peer_dead"): _M._peer_dead,
            (state, "stop"): _M._stop,
            (state, "tick"): _M._tick,
        }
    return table | {
        (_S.EXPECTING, "peer_up"): _M._ask,
        (_S.EXPECTING, "offer"): _M._offer,
        (_S.EXPECTING, "reserved"): _M._reserve,
        (_S.EXPECTING, "no_room"): _M._queue,
        (_S.EXPECTING, "refused"): _M._refused,
        (_S.QUEUED, "room_freed"): _M._try_again,
        (_S.QUEUED, "reserved"): _M._reserve,
        (_S.QUEUED, "refused"): _M._refused,
        (_S.GRANTED, "offer"): _M._say_grant,
        (_S.GRANTED, "status"): _M._say_grant,
        (_S.GRANTED, "commit"): _M._commit,
        (_S.GRANTED, "recreated"): _M._recreated,
        # The data is here and quiet: only the request's own end can stop the check.
        (_S.VERIFYING, "verified"): _M._verified,
        (_S.VERIFYING, "refused"): _M._refused,
        (_S.VERIFYING, "stop"): _M._stop,
        (_S.VERIFYING, "tick"): _M._tick,
        (_S.QUARANTINED, "quiesced"): _M._lift,
        (_S.QUARANTINED, "withdraw"): _M._lift,
        (_S.QUARANTINED, "fail"): _M._lift_if_quiesced,
        (_S.QUARANTINED, "commit"): _M._lift_and_refuse,
        (_S.QUARANTINED, "peer_dead"): _M._lift,
        (_S.QUARANTINED, "recreated"): _M._lift_if_fenced,
        (_S.QUARANTINED, "tick"): _M._ask_again,
        (_S.QUARANTINED, "peer_up"): _M._repeat_end,
        (_S.QUARANTINED, "offer"): _M._repeat_end,
        (_S.QUARANTINED, "status"): _M._repeat_end,
        (_S.DONE, "commit"): _M._repeat_end,
        (_S.DONE, "status"): _M._repeat_end,
        (_S.DONE, "offer"): _M._repeat_failure,
        (_S.DONE, "peer_up"): _M._repeat_failure,
    }


TABLE = _table()
