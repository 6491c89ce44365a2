"""The members of holder sets, written by one process and read by others.

A set's members never change; its id is another set's only long after it has died (`HolderSets`), so
who has seen the id at a block has time to read them. They may be moved: a count that is odd
meanwhile tells that.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np
import numpy.typing as npt

from baton.router.shared.barrier import barrier
from baton.router.shared.memory import SharedArray, SharedFile

# Columns of a set's span in the arena of members, in uint32s, and how many sets had its id.
_START, _LENGTH, _LIFE = range(3)
_LEAST_SETS: Final = 2**12
_LEAST_MEMBERS: Final = 2**16
# Looks at members that are being moved, and pauses in between.
_MAX_LOOKS: Final = 20
_LOOK_S: Final = 1e-4


class SharedSets:
    """`put` is the writer's, `life` and `members` are the readers'."""

    def __init__(
        self,
        file: SharedFile,
        spans: int,
        arena: int,
        moves: npt.NDArray[np.int64],
        *,
        writable: bool,
    ) -> None:
        """`spans` and `arena` are regions; `moves`, `[1]`, is where moves are counted."""
        self._moves = moves
        # [sets, 3], by id
        self._spans = SharedArray(
            file, spans, np.uint64, (3,), least=_LEAST_SETS, writable=writable
        )
        self._arena = SharedArray(file, arena, np.uint32, least=_LEAST_MEMBERS, writable=writable)
        self._num_sets = 0
        # Of the arena: what was given out, and what of it belongs to a set.
        self._end = 0
        self._num_members = 0

    def put(self, set_id: int, raw: bytes) -> None:
        """This id is of a set with these members (uint32) from now on."""
        members = np.frombuffer(raw, np.uint32)
        spans = self._spans.reserve(set_id + 1)
        self._num_sets = max(self._num_sets, set_id + 1)
        span = spans[set_id]
        self._num_members -= int(span[_LENGTH])
        span[_LENGTH] = 0
        if self._end + len(members) > len(self._arena.rows):
            self._make_room(len(members))
        self._arena.rows[self._end : self._end + len(members)] = members
        span[_START] = self._end
        span[_LENGTH] = len(members)
        span[_LIFE] += np.uint64(1)
        self._end += len(members)
        self._num_members += len(members)
        barrier()

    def life(self, set_id: int) -> int:
        """Of the set that has this id now."""
        return int(self._spans.reserve(set_id + 1)[set_id, _LIFE])

    def members(self, set_id: int) -> npt.NDArray[np.uint32] | None:
        """Sorted holders; None when they were being moved all the time."""
        for _ in range(_MAX_LOOKS):
            num_moves = int(self._moves[0])
            if not num_moves & 1:
                start, length, _ = self._spans.reserve(set_id + 1)[set_id].tolist()
                arena = self._arena.reserve(start + length)
                members: npt.NDArray[np.uint32] = arena[start : start + length].copy()
                if num_moves == self._moves[0]:
                    return members
            time.sleep(_LOOK_S)
        return None

    def _make_room(self, num_new: int) -> None:
        """Move what belongs to sets together; have at least twice what is needed."""
        spans = self._spans.rows[: self._num_sets]
        starts, lengths = spans[:, _START].astype(np.int64), spans[:, _LENGTH].astype(np.int64)
        moved_to = np.cumsum(lengths) - lengths
        come_from = np.arange(self._num_members) + np.repeat(starts - moved_to, lengths)
        arena = self._arena.rows
        self._moves += 1
        barrier()
        arena[: self._num_members] = arena[come_from]
        spans[:, _START] = moved_to
        barrier()
        self._moves += 1
        self._end = self._num_members
        self._arena.reserve(2 * (self._num_members + num_new))
