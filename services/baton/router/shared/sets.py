"""The members of holder sets, written by one process and read by others.

A set's members never change; its id is another set's only long after it has died (`HolderSets`), so
who has seen the id at a block has time to read them. When they are moved together, they are copied
from one arena to another one, and what they left stays there until the next move: a writer that is
held up amid a move keeps no reader waiting.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from baton.router.shared.barrier import barrier
from baton.router.shared.memory import SharedArray, SharedFile

# Columns of a set: where its members are, and how many sets had its id.
_SPAN, _LIFE = range(2)
# Of a span, which is one word and so never seen half written: the length in the low bits, then the
# start in its arena, in uint32s; the highest bit says which arena.
_LENGTH_BITS: Final = 24
_ARENA_BIT: Final = 63
_LENGTH_MASK: Final = 2**_LENGTH_BITS - 1
_START_MASK: Final = 2 ** (_ARENA_BIT - _LENGTH_BITS) - 1
_LEAST_SETS: Final = 2**12
_LEAST_MEMBERS: Final = 2**16
# Looks at members that are moved again at every look.
_MAX_LOOKS: Final = 16


class SharedSets:
    """`put` is the writer's, `life` and `members` are the readers'."""

    def __init__(
        self,
        file: SharedFile,
        spans: int,
        arenas: tuple[int, int],
        moves: npt.NDArray[np.int64],
        *,
        writable: bool,
    ) -> None:
        """`spans` and `arenas` are regions; `moves`, `[1]`, is where moves are counted."""
        self._moves = moves
        # [sets, 2], by id
        self._sets = SharedArray(file, spans, np.uint64, (2,), least=_LEAST_SETS, writable=writable)
        self._arenas = [
            SharedArray(file, arena, np.uint32, least=_LEAST_MEMBERS, writable=writable)
            for arena in arenas
        ]
        self._num_sets = 0
        # Of the arena that is written to: what was given out, and what of it belongs to a set.
        self._end = 0
        self._num_members = 0

    def put(self, set_id: int, raw: bytes) -> None:
        """This id is of a set with these members (uint32) from now on."""
        members = np.frombuffer(raw, np.uint32)
        entry = self._sets.reserve(set_id + 1)[set_id]
        self._num_sets = max(self._num_sets, set_id + 1)
        self._num_members -= int(entry[_SPAN]) & _LENGTH_MASK
        entry[_SPAN] = 0
        if self._end + len(members) > len(self._arenas[self._newest].rows):
            self._move_together(len(members))
        start, self._end = self._end, self._end + len(members)
        self._arenas[self._newest].rows[start : self._end] = members
        entry[_SPAN] = self._newest << _ARENA_BIT | start << _LENGTH_BITS | len(members)
        entry[_LIFE] += np.uint64(1)
        self._num_members += len(members)
        barrier()

    def life(self, set_id: int) -> int:
        """Of the set that has this id now."""
        return int(self._sets.reserve(set_id + 1)[set_id, _LIFE])

    def members(self, set_id: int) -> npt.NDArray[np.uint32] | None:
        """Sorted holders; None when they were moved at every look."""
        for _ in range(_MAX_LOOKS):
            num_moves = self._moves[0]
            span = int(self._sets.reserve(set_id + 1)[set_id, _SPAN])
            start = span >> _LENGTH_BITS & _START_MASK
            end = start + (span & _LENGTH_MASK)
            arena = self._arenas[span >> _ARENA_BIT].reserve(end)
            members: npt.NDArray[np.uint32] = arena[start:end].copy()
            # The next move writes where the last one took its members from.
            if num_moves == self._moves[0]:
                return members
        return None

    @property
    def _newest(self) -> int:
        """The arena that the last move filled."""
        return int(self._moves[0]) & 1

    def _move_together(self, num_new: int) -> None:
        """Copy what belongs to sets into the other arena, of at least twice what is needed."""
        spans = self._sets.rows[: self._num_sets, _SPAN]
        lengths = spans & np.uint64(_LENGTH_MASK)
        starts = spans >> np.uint64(_LENGTH_BITS) & np.uint64(_START_MASK)
        moved_to = np.cumsum(lengths) - lengths
        counts, shifts = lengths.astype(np.intp), (starts - moved_to).view(np.int64)
        come_from = np.arange(self._num_members) + np.repeat(shifts, counts)
        old = self._arenas[self._newest].rows
        self._moves += 1
        barrier()
        new = self._arenas[self._newest].reserve(2 * (self._num_members + num_new))
        new[: self._num_members] = old[come_from]
        barrier()
        arena = np.uint64(self._newest << _ARENA_BIT)
        spans[:] = arena | moved_to << np.uint64(_LENGTH_BITS) | lengths
        self._end = self._num_members
