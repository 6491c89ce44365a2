"""Which running sequences move to another worker: away from those that drain or lack blocks.

Pure: the shell (`gateway.moves`) says what runs where and carries the moves out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from baton.router.columns import Array, Columns, Role

# A sequence this close to its end is left to it: a move takes a few steps itself.
MIN_REMAINING = 8
# A worker short of blocks gives sequences away until this share of its pool is free, ...
RELIEF_SHARE = 0.1
# ... to workers that keep this much of theirs free then. The distance between the two is what
# keeps a sequence from being sent back.
PLENTY_SHARE = 0.3
# A worker that goes away within this gives everything at once, whatever the bound on moves is.
HURRY_S = 30.0
# What is still on it so shortly before is computed again elsewhere.
REPLAY_S = 1.0


@dataclass(frozen=True, slots=True)
class RunningSlot:
    """A sequence that could be moved: where it is, KV blocks that it holds, tokens still to come.

    `is_rested`: long enough where it is to be moved for balance's sake.
    """

    row: int
    num_blocks: int
    remaining_tokens: int
    is_rested: bool = True


@dataclass(frozen=True, slots=True)
class SlotMove:
    """Index into the slots given, the row that takes it over, and why."""

    slot: int
    target: int
    reason: str


@dataclass(slots=True)
class UnderWay:
    """Moves that have not ended: number by row that gives, by row that takes, and the blocks that
    each giving row gets back."""

    giving: Mapping[int, int] = field(default_factory=dict)
    taking: Mapping[int, int] = field(default_factory=dict)
    giving_blocks: Mapping[int, int] = field(default_factory=dict)


def rebalance(
    columns: Columns,
    slots: Sequence[RunningSlot],
    under_way: UnderWay,
    max_moves: int,
    left_s: Mapping[int, float] | None = None,
) -> list[SlotMove]:
    """What to move now. At most `max_moves` at once from or to any worker, those under way counted.

    From a worker that drains everything goes, what has most left to do first; without that bound
    when it goes away soon (`left_s` by row, for those whose end is known). From one short of
    blocks, the largest, as few as free enough.
    """
    left_s = left_s or {}
    plan = _Plan(columns, under_way, max_moves)
    for row in np.flatnonzero(columns.used & columns.up & columns.draining):
        in_hurry = max_moves > 0 and left_s.get(int(row), math.inf) <= HURRY_S
        plan.empty(int(row), slots, in_hurry=in_hurry)
    short = columns.used & columns.up & ~columns.draining & columns.short_of_blocks
    for row in np.flatnonzero(short & (columns.role != Role.PREFILL)):
        plan.relieve(int(row), slots)
    return plan.moves


def must_be_replayed(columns: Columns, row: int, left_s: float) -> bool:
    """Whether what runs on a worker is to be computed again elsewhere, for it is gone in a moment.

    Not while there is no elsewhere: it may live longer than was said.
    """
    others = columns.used & columns.up & ~columns.draining & (columns.model == columns.model[row])
    others &= columns.role != Role.PREFILL
    return left_s <= REPLAY_S and bool(others.any())


class _Plan:
    """Moves chosen so far, and what they leave of the room there was."""

    def __init__(self, columns: Columns, under_way: UnderWay, max_moves: int) -> None:
        self._columns = columns
        self._max_moves = max_moves
        self._giving = Counter(under_way.giving)
        self._taking = Counter(under_way.taking)
        self._giving_blocks = under_way.giving_blocks
        # Bookings know of moves under way; these are the new ones.
        self._sequences = np.zeros(len(columns), np.int64)
        self._free = columns.free_blocks - columns.booked_blocks
        self.moves: list[SlotMove] = []

    def empty(self, row: int, slots: Sequence[RunningSlot], *, in_hurry: bool) -> None:
        """Everything of this worker, as far as others have room."""
        mine = [i for i, s in enumerate(slots) if s.row == row]
        for i in sorted(mine, key=lambda i: -slots[i].remaining_tokens):
            if self._giving[row] >= self._max_moves and not in_hurry:
                return
            if slots[i].remaining_tokens >= MIN_REMAINING:
                # One growing block for each sequence that runs there.
                keep_free = self._columns.num_running + self._sequences
                self._move(i, slots[i], "drain", keep_free, in_hurry=in_hurry)

    def relieve(self, row: int, slots: Sequence[RunningSlot]) -> None:
        """The few that free enough blocks of this worker."""
        columns = self._columns
        wanted = RELIEF_SHARE * columns.num_blocks[row] - columns.free_blocks[row]
        wanted -= self._giving_blocks.get(row, 0)
        mine = [i for i, s in enumerate(slots) if s.row == row and s.is_rested]
        for i in sorted(mine, key=lambda i: -slots[i].num_blocks):
            if wanted <= 0 or self._giving[row] >= self._max_moves:
                return
            if slots[i].remaining_tokens < MIN_REMAINING:
                continue
            if self._move(i, slots[i], "short_of_blocks", PLENTY_SHARE * columns.num_blocks):
                wanted -= slots[i].num_blocks

    def _move(
        self,
        index: int,
        slot: RunningSlot,
        reason: str,
        keep_free: Array,
        *,
        in_hurry: bool = False,
    ) -> bool:
        """To the worker with the largest share of free blocks; `keep_free` of them are no room."""
        columns, row = self._columns, slot.row
        # Reports know of other gateways' sequences, `inflight` of those still on their way.
        running = np.maximum(columns.inflight, columns.num_running)
        can_take = (
            columns.used
            & columns.up
            & ~columns.draining
            & ~columns.short_of_blocks
            & (columns.role != Role.PREFILL)
            & (columns.model == columns.model[row])
            & (columns.digest == columns.digest[row])
            & (running + self._sequences < columns.max_sequences)
            & (self._free - slot.num_blocks >= keep_free)
        )
        can_take[row] = False
        targets = [
            t
            for t in np.flatnonzero(can_take)
            if in_hurry or self._taking[int(t)] < self._max_moves
        ]
        if not targets:
            return False
        target = int(max(targets, key=lambda t: self._free[t] / max(1, columns.num_blocks[t])))
        self._sequences[target] += 1
        self._free[target] -= slot.num_blocks
        self._giving[row] += 1
        self._taking[target] += 1
        self.moves.append(SlotMove(index, target, reason))
        return True
