"""One worker's part in one attempt of a request: the link between a session's slot and its request.

Only the current attempt has parts; those of earlier ones are stopped, so that nothing they say is
heard.
"""

from __future__ import annotations

import logging
from typing import Protocol

from baton.core.errors import BatonError, from_code
from baton.core.request import TokenLogprobs
from baton.gateway.errors import internal
from baton.gateway.ownership import Ownership, Side
from baton.gateway.session import WorkerSession
from baton.router.pool import Booking, Pool
from baton.telemetry.logging import event
from baton.v1 import session_pb2

log = logging.getLogger(__name__)

SlotEvent = session_pb2.SlotEvent


class PartOwner(Protocol):
    """Acts on what becomes of a part."""

    def on_finished(self) -> None:
        """The request has ended: its sink has heard so."""

    def on_adopted(self, part: Part, timing: session_pb2.HandoffTiming) -> None:
        """This side of a handoff reports that the target has the KV."""

    def on_failed(self, part: Part, error: BatonError, *, retryable: bool) -> None:
        """The worker gave up, or is lost. The part is closed."""


class Part:
    """A SlotListener that feeds the request's Ownership."""

    __slots__ = (
        "_is_adopted",
        "_is_closed",
        "_num_open",
        "_owner",
        "_ownership",
        "_pool",
        "attempt",
        "booking",
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
        self.slot = session.open_slot(self)
        self._owner = owner
        self._ownership = ownership
        self._pool = pool
        self._num_open = ownership.num_choices
        self._is_adopted = False
        self._is_closed = False

    def on_row(
        self, choice: int, position: int, token: int, flags: int, logprobs: TokenLogprobs | None
    ) -> None:
        received = self.received
        if position < received.get(choice, 0):
            # Sent again after a resume.
            return
        received[choice] = position + 1
        if not self._is_adopted and self.side is Side.TARGET:
            # Its event may come behind the row in the same frame, when the request has ended.
            self._adopted(SlotEvent().handoff)
        if flags:
            self._num_open -= 1
        try:
            ended = self._ownership.row(self.attempt, choice, position, token, flags, logprobs)
        except Exception as error:
            # One request's broken sink must not end the stream that it shares.
            log.exception(*event("sink_failed", request_id=self._ownership.request.request_id))
            self._ownership.fail(internal(error))
            ended = True
        if ended:
            self._owner.on_finished()

    def on_event(self, slot_event: SlotEvent) -> None:
        # Events may come twice: a session that resumes sends them all again.
        kind = slot_event.kind
        if kind == SlotEvent.KIND_SCHEDULED:
            self._pool.begin(self.booking)
            self._ownership.scheduled(self.attempt, self.side, slot_event.cached_tokens)
        elif kind == SlotEvent.KIND_HANDED_OFF and not self._is_adopted:
            self._adopted(slot_event.handoff)
        elif kind == SlotEvent.KIND_FAILED:
            error = from_code(slot_event.code, slot_event.message)
            self._fail(error, retryable=slot_event.retryable)

    def _adopted(self, timing: session_pb2.HandoffTiming) -> None:
        self._is_adopted = True
        self._pool.begin(self.booking)
        self._ownership.handed_off(self.attempt)
        if self.side is Side.SOURCE:
            self._close()
            self.session.forget(self.slot)
        self._owner.on_adopted(self, timing)

    def on_lost(self, error: BatonError) -> None:
        self._close()
        self._owner.on_failed(self, error, retryable=True)

    def _fail(self, error: BatonError, *, retryable: bool) -> None:
        self._close()
        self.session.forget(self.slot)
        self._owner.on_failed(self, error, retryable=retryable)

    def stop(self) -> None:
        """No more of this part is wanted. Idempotent."""
        if self._is_closed:
            return
        self._close()
        if self._num_open:
            self.session.cancel(self.slot)
        else:
            self.session.forget(self.slot)

    def _close(self) -> None:
        self._is_closed = True
        self._pool.end(self.booking)
