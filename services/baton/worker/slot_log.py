"""What a submission has said, and when its gateway is to hear of it. Pure: no I/O and no clock."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

from baton.core.request import TokenLogprobs
from baton.engine.outputs import TokenRow
from baton.v1 import session_pb2
from baton.wire.frames import FrameColumns

# Numbers kept of each token: choice, position, token, flags.
_WIDTH = 4


class SlotLog:
    """One submission's rows and events, kept for a gateway that resumes.

    Rows that are not due are held back until others are, or somebody takes them all the same.
    """

    __slots__ = (
        "_first_positions",
        "_interval",
        "_logprobs",
        "_num_rows",
        "_num_taken",
        "_rows",
        "attempt",
        "events",
    )

    def __init__(self, submit: session_pb2.Submit) -> None:
        self.attempt = submit.attempt
        self.events: list[session_pb2.SlotEvent] = []
        self._interval = submit.stream_interval
        # Of tokens that are computed here; a handoff's target begins behind them.
        self._first_positions = {c.index: len(c.output_so_far) for c in submit.choices}
        self._rows = array("I")
        self._num_rows = 0
        self._num_taken = 0
        self._logprobs: dict[int, TokenLogprobs] = {}

    @property
    def num_held(self) -> int:
        """Rows that nobody has taken."""
        return self._num_rows - self._num_taken

    def add(self, row: TokenRow) -> bool:
        """Note a token; whether it is due now, with all that are held."""
        flags = 0 if row.finish is None else int(row.finish)
        if row.logprobs is not None:
            self._logprobs[self._num_rows] = row.logprobs
        self._rows.extend((row.choice, row.position, row.token, flags))
        self._num_rows += 1
        return (
            self._interval <= 1
            or flags != 0
            or row.position == self._first_positions.get(row.choice)
            or self.num_held >= self._interval
        )

    def take(self, slot: int, columns: FrameColumns) -> None:
        """Append the rows that are held; they are held no more."""
        for number in range(self._num_taken, self._num_rows):
            self._append(number, slot, columns)
        self._num_taken = self._num_rows

    def resume(self, slot: int, next_positions: Mapping[int, int], columns: FrameColumns) -> None:
        """Append each choice's rows from its next position on, taken before or not."""
        for number in range(self._num_rows):
            choice, position = self._rows[number * _WIDTH : number * _WIDTH + 2]
            if position >= next_positions.get(choice, 0):
                self._append(number, slot, columns)
        self._num_taken = self._num_rows

    def _append(self, number: int, slot: int, columns: FrameColumns) -> None:
        rows, at = self._rows, number * _WIDTH
        logprobs = self._logprobs.get(number) if self._logprobs else None
        columns.add(slot, rows[at], rows[at + 1], rows[at + 2], rows[at + 3], logprobs)
