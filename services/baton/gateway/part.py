"""One worker's part in one attempt of a request: the link between a session's slot and its request.

Only the current attempt has parts; those of earlier ones are stopped, so that nothing they say is
heard.
"""

from __future__ import annotations

import logging
from typing import Protocol

from baton.core.errors import BatonError, HandoffError, WorkerLostError, from_code
from baton.core.request import TokenLogprobs
from baton.gateway.errors import internal
from baton.gateway.ownership import Ownership, Progress, Side
from baton.gateway.workers.session import WorkerSession
from baton.router.pool import Booking, Pool
from baton.telemetry.logging import event
from baton.v1 import session_pb2

log = logging.getLogger(__name__)

SlotEvent = session_pb2.SlotEvent
_UNTIMED = session_pb2.HandoffTiming()


class PartOwner(Protocol):
    """Acts on what becomes of a part."""

    def on_finished(self) -> None:
        """The request has ended: its sink has heard so."""

    def on_scheduled(self, part: Part, cached_tokens: int, age_s: float) -> None:
        """The worker has begun, that long ago, and found so much of the prompt in its cache. Not of
        a move."""

    def on_adopted(self, part: Part, timing: session_pb2.HandoffTiming) -> None:
        """This side of a handoff, not of a move, reports that the target has the KV."""

    def on_first_step(self, timing: session_pb2.HandoffTiming) -> None:
        """A target, not an heir, has generated its first token; how long its phases took."""

    def on_failed(self, part: Part, error: BatonError, *, retryable: bool) -> None:
        """The worker gave up. The part is closed."""

    def on_lost(self, part: Part, error: BatonError) -> None:
        """The worker is gone. The part is closed."""

    def on_gap(self) -> None:
        """A row came that those before it never will."""

    def on_taken_over(self, heir: Part) -> None:
        """An heir has adopted: it is the target now, and who decoded until now a source."""

    def on_given_up(self, part: Part, handoff_id: bytes) -> bool:
        """A part that decodes was told to move, and says that its heir has adopted; false when no
        such heir is known (any more)."""

    def on_move_failed(self, part: Part, handoff_id: bytes, error: BatonError) -> None:
        """A part that was told to move goes on as before."""


class Part:
    """A SlotListener that feeds the request's Ownership."""

    __slots__ = (
        "_awaits_adoption",
        "_has_stepped",
        "_in_move",
        "_is_adopted",
        "_num_open",
        "_owner",
        "_ownership",
        "_pool",
        "attempt",
        "booking",
        "is_closed",
        "received",
        "session",
        "side",
        "slot",
    )

    def __init__(
        self,
        owner: PartOwner,
        ownership: Ownership,
        side: Side,
        session: WorkerSession,
        pool: Pool,
        booking: Booking,
    ) -> None:
        self.attempt = ownership.attempt
        self.side = side
        self.session = session
        self.booking = booking
        self.received: dict[int, int] = {}
        self.slot = booking.slot = session.open_slot(self)
        self._owner = owner
        self._ownership = ownership
        self._pool = pool
        self._num_open = ownership.num_choices
        self._is_adopted = False
        self._has_stepped = False
        self._awaits_adoption = side is Side.TARGET or side is Side.HEIR
        # What it says of its handoff is of a move, which `Moves` counts.
        self._in_move = side is Side.HEIR
        self.is_closed = False

    def on_row(
        self, choice: int, position: int, token: int, flags: int, logprobs: TokenLogprobs | None
    ) -> None:
        received = self.received
        if position < received.get(choice, 0):
            # Sent again after a resume.
            return
        received[choice] = position + 1
        if self._awaits_adoption:
            # Its event may come behind the row in the same frame, when the request has ended.
            self._adopted(_UNTIMED)
        if flags:
            self._num_open -= 1
        try:
            progress = self._ownership.row(self.attempt, choice, position, token, flags, logprobs)
        except Exception as error:
            # One request's broken sink must not end the stream that it shares.
            log.exception(*event("sink_failed", request_id=self._ownership.request.request_id))
            self._ownership.fail(internal(error))
            progress = Progress.ENDED
        if progress:
            if progress is Progress.GAP:
                self._owner.on_gap()
            else:
                self._owner.on_finished()

    def on_event(self, slot_event: SlotEvent) -> None:
        # Events may come twice: a session that resumes sends them all again.
        kind = slot_event.kind
        if kind == SlotEvent.KIND_SCHEDULED:
            self._pool.begin(self.booking)
            self.take_over()
            if not self._in_move:
                self._owner.on_scheduled(self, slot_event.cached_tokens, slot_event.age_s)
            self._ownership.scheduled(self.attempt, self.side, slot_event.cached_tokens)
        elif kind == SlotEvent.KIND_HANDED_OFF:
            if slot_event.handoff_id:
                self._given_up(slot_event)
            elif not self._is_adopted:
                self._adopted(slot_event.handoff)
        elif kind == SlotEvent.KIND_FIRST_STEP and not self._has_stepped:
            self._has_stepped = True
            if not self._in_move:
                self._owner.on_first_step(slot_event.handoff)
        elif kind == SlotEvent.KIND_MOVE_FAILED:
            error = from_code(slot_event.code, slot_event.message)
            self._owner.on_move_failed(self, slot_event.handoff_id, error)
        elif kind == SlotEvent.KIND_FAILED:
            error = from_code(slot_event.code, slot_event.message)
            if isinstance(error, HandoffError):
                error.reason = slot_event.handoff.reason
            self._fail(error, retryable=slot_event.retryable)

    def take_over(self) -> None:
        """An heir becomes the target; nothing for others."""
        if self.side is Side.HEIR:
            self.side = Side.TARGET
            self._ownership.taken_over(self.attempt)
            self._owner.on_taken_over(self)

    def _given_up(self, slot_event: session_pb2.SlotEvent) -> None:
        """A Migrate has succeeded: the sequence is no longer here."""
        if self._owner.on_given_up(self, slot_event.handoff_id):
            self._in_move = True
            self._adopted(slot_event.handoff)
        else:
            heir_lost = WorkerLostError("the worker that it was moved to is lost")
            self._fail(heir_lost, retryable=True)

    def _adopted(self, timing: session_pb2.HandoffTiming) -> None:
        self.take_over()
        self._is_adopted = True
        self._awaits_adoption = False
        self._pool.begin(self.booking)
        self._ownership.handed_off(self.attempt, self.side)
        if self.side is Side.SOURCE:
            self._close()
            self.session.forget(self.slot)
        if not self._in_move:
            self._owner.on_adopted(self, timing)

    def on_lost(self, error: BatonError) -> None:
        self._close()
        self._owner.on_lost(self, error)

    def _fail(self, error: BatonError, *, retryable: bool) -> None:
        self._close()
        self.session.forget(self.slot)
        self._owner.on_failed(self, error, retryable=retryable)

    def stop(self) -> None:
        """No more of this part is wanted. Idempotent."""
        if self.is_closed:
            return
        self._close()
        if self._num_open:
            self.session.cancel(self.slot)
        else:
            self.session.forget(self.slot)

    def _close(self) -> None:
        self.is_closed = True
        self._pool.end(self.booking)
