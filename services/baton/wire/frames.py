"""Token rows as the columns of a `Frame`, and what a row's flags and logprobs mean."""

from __future__ import annotations

from baton.core.request import FinishReason, TokenLogprobs
from baton.v1 import session_pb2

FINISH_MASK = 0xF
# Workers hold tokens back that nobody waits for (Submit.stream_interval): what a lost worker may
# have to compute again, and what its gateway's books may lag behind.
HELD_WAIT_S = 0.25
_FINISH: tuple[FinishReason | None, ...] = tuple(
    FinishReason(value) if value in FinishReason._value2member_map_ else None
    for value in range(FINISH_MASK + 1)
)


def finish_of(flags: int) -> FinishReason | None:
    """Why the choice ended with this row, None while it goes on.

    A reason that this build does not know reads as ERROR: the choice has ended all the same.
    """
    value = flags & FINISH_MASK
    if not value:
        return None
    return _FINISH[value] or FinishReason.ERROR


class FrameColumns:
    """Rows gathered for one frame."""

    __slots__ = ("_choice", "_flags", "_logprobs", "_position", "_slot", "_token")

    def __init__(self) -> None:
        self._slot: list[int] = []
        self._choice: list[int] = []
        self._position: list[int] = []
        self._token: list[int] = []
        self._flags: list[int] = []
        self._logprobs: list[session_pb2.RowLogprobs] = []

    def __len__(self) -> int:
        return len(self._slot)

    def add(
        self,
        slot: int,
        choice: int,
        position: int,
        token: int,
        flags: int,
        logprobs: TokenLogprobs | None,
    ) -> None:
        """Append a row."""
        if logprobs is not None:
            self._logprobs.append(
                session_pb2.RowLogprobs(
                    row=len(self._slot),
                    logprob=logprobs.logprob,
                    top_tokens=logprobs.top_tokens,
                    top_logprobs=logprobs.top_logprobs,
                )
            )
        self._slot.append(slot)
        self._choice.append(choice)
        self._position.append(position)
        self._token.append(token)
        self._flags.append(flags)

    def frame(self) -> session_pb2.Frame:
        """The rows as a frame, without events or load."""
        return session_pb2.Frame(
            slot=self._slot,
            choice=self._choice,
            position=self._position,
            token=self._token,
            flags=self._flags,
            logprobs=self._logprobs,
        )


def frame_logprobs(frame: session_pb2.Frame) -> dict[int, TokenLogprobs]:
    """Logprobs by row index; most frames have none."""
    return {
        entry.row: TokenLogprobs(entry.logprob, tuple(entry.top_tokens), tuple(entry.top_logprobs))
        for entry in frame.logprobs
    }
