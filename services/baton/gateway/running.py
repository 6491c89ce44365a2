"""One request between `submit` and `on_end`, and who acts on what its workers say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from baton.core.errors import BatonError
from baton.core.request import Request
from baton.gateway.moves import Move, MoveRecord
from baton.gateway.ownership import Ownership, Side
from baton.gateway.placement import Part
from baton.v1 import session_pb2

if TYPE_CHECKING:
    from baton.gateway.dispatch import Dispatcher

_DECODERS = (Side.ALONE, Side.TARGET)


class Running:
    """Also the request's Ticket, and the owner of its parts."""

    __slots__ = (
        "_dispatcher",
        "avoid",
        "is_waiting",
        "moves",
        "ownership",
        "parts",
        "queued_at",
        "request",
        "timer",
    )

    def __init__(
        self, dispatcher: Dispatcher, request: Request, ownership: Ownership, now: float
    ) -> None:
        self._dispatcher = dispatcher
        self.request = request
        self.ownership = ownership
        self.queued_at = now
        self.is_waiting = False
        self.parts: list[Part] = []
        self.timer = 0
        # Rows of workers that have just failed it.
        self.avoid: frozenset[int] = frozenset()
        self.moves: MoveRecord | None = None

    @property
    def decoder(self) -> Part | None:
        """The part that has, or is to get, the KV."""
        for part in self.parts:
            if not part.is_closed and part.side in _DECODERS:
                return part
        return None

    @property
    def is_movable(self) -> bool:
        """Its decoder has the KV, everything else of the attempt is over."""
        ownership = self.ownership
        return (
            ownership.is_movable
            and sum(not part.is_closed for part in self.parts) == 1
            and any(part.side is Side.ALONE or ownership.is_adopted for part in self.parts)
        )

    def cancel(self, reason: str) -> None:
        self.ownership.cancel(reason)
        self._dispatcher.release(self)

    # --- PartOwner ---

    def on_finished(self) -> None:
        self._dispatcher.release(self)

    def on_adopted(self, part: Part, timing: session_pb2.HandoffTiming) -> None:
        self._dispatcher.handoffs.adopted(part.side, timing)

    def on_first_step(self, timing: session_pb2.HandoffTiming) -> None:
        self._dispatcher.handoffs.first_step(timing)

    def on_failed(self, part: Part, error: BatonError, *, retryable: bool) -> None:
        if part.side is Side.HEIR:
            self._dispatcher.moves.failed(self, error)
        else:
            self._dispatcher.failed(self, part, error, retryable=retryable)

    def on_lost(self, part: Part, error: BatonError) -> None:
        if part.side is Side.HEIR:
            self._dispatcher.moves.failed(self, error)
        else:
            self._dispatcher.lost(self, part, error)

    def on_gap(self) -> None:
        self._dispatcher.gap(self)

    def on_taken_over(self, heir: Part) -> None:
        self._dispatcher.moves.taken_over(self)

    def on_given_up(self, part: Part, handoff_id: bytes) -> bool:
        move = self._move(part, handoff_id)
        if move is not None:
            move.heir.take_over()
        # Its heir may have been heard first.
        return part.side is Side.SOURCE

    def on_move_failed(self, part: Part, handoff_id: bytes, error: BatonError) -> None:
        if self._move(part, handoff_id) is not None:
            self._dispatcher.moves.failed(self, error)

    def _move(self, part: Part, handoff_id: bytes) -> Move | None:
        """The move under way of this id."""
        move = self.moves.current if self.moves is not None else None
        is_it = move is not None and move.origin is part and move.handoff_id == handoff_id
        return move if is_it else None
