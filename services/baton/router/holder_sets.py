"""Sets of holders of a block, each kept once and known by a small number.

Blocks of one prompt are held by the same workers over long stretches, so there are few sets for
many blocks, and what is asked of a set is computed once for all of them.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

# Best tier of each row of the pool: [num_rows] uint8, ABSENT where the row holds nothing.
BestTiers = npt.NDArray[np.uint8]
ABSENT: Final = 3
# A holder is a row of the pool and a level there: its number is row * LEVELS + level.
LEVELS: Final = 8
# Bytes of `best` arrays that are kept.
MAX_BEST_BYTES: Final = 32 * 2**20


class HolderSets:
    """Set 0 is the empty one and stays. Another lives while blocks have it: `retain` and
    `release` count them.

    `tiers[level]` is the tier that a level stands for; a lower number is better in both. `on_new`
    hears of each set before any block has it: its id, which may have been another one's, and its
    sorted holders as uint32. An id is used again when `num_unused` have become free after it.
    """

    def __init__(
        self,
        tiers: tuple[int, ...],
        on_new: Callable[[int, bytes], None] | None = None,
        num_unused: int = 0,
    ) -> None:
        self._on_new = on_new
        self._least_unused = num_unused
        # Sets that have died.
        self.num_released = 0
        self._tiers = np.array(tiers, np.uint8)
        # Sorted holders as uint32, native byte order, and the way back.
        self._members: list[bytes] = [b""]
        self._ids: dict[bytes, int] = {b"": 0}
        self._num_blocks: list[int] = [0]
        self._unused: deque[int] = deque()
        self._best: dict[int, BestTiers] = {}
        self._num_rows = 0

    def __len__(self) -> int:
        """Sets that live, without the empty one."""
        return len(self._ids) - 1

    @property
    def limit(self) -> int:
        """All ids are below it."""
        return len(self._members)

    def num_blocks(self, set_id: int) -> int:
        """How many blocks have this set."""
        return self._num_blocks[set_id]

    def has(self, set_id: int, holder: int) -> bool:
        members = memoryview(self._members[set_id]).cast("I")
        at = bisect_left(members, holder)
        return at < len(members) and members[at] == holder

    def with_holder(self, set_id: int, holder: int) -> int:
        """The set that has this holder too. It must be retained before another is asked for."""
        raw = self._members[set_id]
        members = memoryview(raw).cast("I")
        at = bisect_left(members, holder)
        if at < len(members) and members[at] == holder:
            return set_id
        return self._intern(raw[: 4 * at] + _bytes(holder) + raw[4 * at :])

    def without_holder(self, set_id: int, holder: int) -> int:
        """The set that lacks this holder. It must be retained before another is asked for."""
        raw = self._members[set_id]
        members = memoryview(raw).cast("I")
        at = bisect_left(members, holder)
        if at == len(members) or members[at] != holder:
            return set_id
        return self._intern(raw[: 4 * at] + raw[4 * at + 4 :])

    def without_row(self, set_id: int, row: int) -> int:
        """The set that lacks all holders of this row. Retain it as above."""
        raw = self._members[set_id]
        members = memoryview(raw).cast("I")
        start = bisect_left(members, row * LEVELS)
        end = bisect_left(members, (row + 1) * LEVELS)
        return self._intern(raw[: 4 * start] + raw[4 * end :]) if start < end else set_id

    def with_row(self, row: int) -> list[int]:
        """Ids of all sets that have a holder of this row."""
        holders = np.frombuffer(b"".join(self._ids), np.uint32)
        ends = np.cumsum(np.fromiter(map(len, self._ids), np.int64)) // 4
        found = np.searchsorted(ends, np.flatnonzero(holders // LEVELS == row), side="right")
        ids = np.fromiter(self._ids.values(), np.int64)
        with_row: list[int] = np.unique(ids[found]).tolist()
        return with_row

    def retain(self, set_id: int, num_blocks: int) -> None:
        """So many more blocks have this set."""
        if set_id:
            self._num_blocks[set_id] += num_blocks

    def release(self, set_id: int, num_blocks: int) -> None:
        """So many fewer do. The id of a set that no block has is used again."""
        if not set_id:
            return
        self._num_blocks[set_id] -= num_blocks
        if self._num_blocks[set_id]:
            return
        del self._ids[self._members[set_id]]
        self._members[set_id] = b""
        self._best.pop(set_id, None)
        self._unused.append(set_id)
        self.num_released += 1

    def best(self, set_id: int, num_rows: int) -> BestTiers:
        """Best tier at which each row holds the blocks of this set. Not to be written to.

        `num_rows` is above every row of the set.
        """
        if num_rows != self._num_rows:
            self._num_rows = num_rows
            self._best.clear()
        found = self._best.get(set_id)
        if found is None:
            if len(self._best) * num_rows > MAX_BEST_BYTES:
                self._best.clear()
            found = self._best[set_id] = self._compute_best(set_id)
        return found

    def _compute_best(self, set_id: int) -> BestTiers:
        best = np.full(self._num_rows, ABSENT, np.uint8)
        # Backwards, so that the best level of a row comes last and stays.
        members = np.frombuffer(self._members[set_id], np.uint32)[::-1]
        best[members // LEVELS] = self._tiers[members % LEVELS]
        return best

    def _intern(self, raw: bytes) -> int:
        set_id = self._ids.get(raw)
        if set_id is None:
            if len(self._unused) > self._least_unused:
                set_id = self._unused.popleft()
                self._members[set_id] = raw
            else:
                set_id = len(self._members)
                self._members.append(raw)
                self._num_blocks.append(0)
            self._ids[raw] = set_id
            if self._on_new is not None:
                self._on_new(set_id, raw)
        return set_id


def _bytes(holder: int) -> bytes:
    return holder.to_bytes(4, sys.byteorder)
