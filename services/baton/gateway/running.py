"""One request between `submit` and `on_end`, and who acts on what its workers say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from baton.core.clock import Clock
from baton.core.errors import BatonError
from baton.core.request import Request
from baton.gateway.moves import Move, MoveRecord
from baton.gateway.ownership import Ownership, Side
from baton.gateway.part import Part
from baton.gateway.records.request_record import Explained, MovedSequence, RequestRecord
from baton.gateway.workers.prompt_hashes import PromptHashes
from baton.v1 import session_pb2

if TYPE_CHECKING:
    from baton.gateway.dispatch import Dispatcher

_DECODERS = (Side.ALONE, Side.TARGET)


class Running:
    """Also the request's Ticket, and the owner of its parts."""

    __slots__ = (
        "_clock",
        "_dispatcher",
        "avoid",
        "choice",
        "hashes",
        "is_waiting",
        "moves",
        "ownership",
        "parts",
        "placed_in",
        "record",
        "request",
        "timer",
    )

    def __init__(
        self, dispatcher: Dispatcher, request: Request, ownership: Ownership, clock: Clock
    ) -> None:
        self._clock = clock
        self._dispatcher = dispatcher
        self.request = request
        self.ownership = ownership
        self.record = RequestRecord(request.request_id, len(request.prompt), clock())
        # Why the workers of the newest attempt, where the policy tells.
        self.choice: Explained | None = None
        # Of its blocks, each computed once however long it waits.
        self.hashes = PromptHashes.of(request)
        self.is_waiting = False
        self.parts: list[Part] = []
        # Revision and digest of the newest attempt's decode worker, as the pool's numbers.
        self.placed_in: tuple[int, int] | None = None
        self.timer = 0
        # Rows of workers that have just failed it.
        self.avoid: frozenset[int] = frozenset()
        self.moves: MoveRecord | None = None

    @property
    def queued_at(self) -> float:
        """When it began to wait for a worker, the last time that it did."""
        return self.record.queued_at

    @queued_at.setter
    def queued_at(self, now: float) -> None:
        self.record.queued_at = now

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

    # --- notes for `explain` ---

    def note_placement(self) -> None:
        """An attempt has begun, with `parts` and `choice`."""
        prefill = decode = ""
        for part in self.parts:
            if part.side is Side.SOURCE:
                prefill = part.session.worker.worker_id
            else:
                decode = part.session.worker.worker_id
        now = self._clock()
        self.record.placed(now, self.ownership.attempt, prefill, decode, self.choice)

    def note_failure(self, part: Part | None, error: BatonError) -> None:
        """The attempt has failed; `part` is to blame, if one is."""
        worker, side = ("", "") if part is None else _who(part)
        self.record.failed(self._clock(), worker, side, error)

    def _note_move(self, failure: str) -> None:
        move = self.moves.current if self.moves is not None else None
        if move is not None:
            origin, heir = _who(move.origin)[0], _who(move.heir)[0]
            now = self._clock()
            self.record.moved(MovedSequence(move.began_at, now, origin, heir, move.reason, failure))

    # --- PartOwner ---

    def on_scheduled(self, part: Part, cached_tokens: int, age_s: float) -> None:
        now = self._clock()
        if part.side is Side.TARGET:
            self.record.adopted(now)
        else:
            self.record.scheduled(now, cached_tokens, age_s)

    def on_finished(self) -> None:
        self._dispatcher.release(self)

    def on_adopted(self, part: Part, timing: session_pb2.HandoffTiming) -> None:
        self.record.adopted(self._clock())
        if part.side is Side.SOURCE:
            self.record.handed_off(timing)
        self._dispatcher.handoffs.adopted(part.side, timing)

    def on_first_step(self, timing: session_pb2.HandoffTiming) -> None:
        self.record.first_step(timing)
        self._dispatcher.handoffs.first_step(timing)

    def on_failed(self, part: Part, error: BatonError, *, retryable: bool) -> None:
        if part.side is Side.HEIR:
            self._move_failed(error)
        else:
            self._dispatcher.failed(self, part, error, retryable=retryable)

    def on_lost(self, part: Part, error: BatonError) -> None:
        if part.side is Side.HEIR:
            self._move_failed(error)
        else:
            self._dispatcher.lost(self, part, error)

    def on_gap(self) -> None:
        self._dispatcher.gap(self)

    def on_taken_over(self, heir: Part) -> None:
        self._note_move("")
        self._dispatcher.moves.taken_over(self)

    def on_given_up(self, part: Part, handoff_id: bytes) -> bool:
        move = self._move(part, handoff_id)
        if move is not None:
            move.heir.take_over()
        # Its heir may have been heard first.
        return part.side is Side.SOURCE

    def on_move_failed(self, part: Part, handoff_id: bytes, error: BatonError) -> None:
        if self._move(part, handoff_id) is not None:
            self._move_failed(error)

    def _move_failed(self, error: BatonError) -> None:
        self._note_move(error.code)
        self._dispatcher.moves.failed(self, error)

    def _move(self, part: Part, handoff_id: bytes) -> Move | None:
        """The move under way of this id."""
        move = self.moves.current if self.moves is not None else None
        is_it = move is not None and move.origin is part and move.handoff_id == handoff_id
        return move if is_it else None


def _who(part: Part) -> tuple[str, str]:
    """The worker and its side."""
    return part.session.worker.worker_id, part.side.value
