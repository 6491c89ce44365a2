"""Which worker holds which KV blocks: exactly what workers say, and for a moment what is to come.

A block is a 64-bit key (`core.block_hash.index_keys`), a worker a row of the pool. Each key maps to
a set of holders (`holder_sets`), so a prompt is matched by one lookup of all its keys, and what is
left to do is per stretch of equal sets. Pure: time is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from baton.core.block_hash import IndexKeys
from baton.router import few_keys
from baton.router.holder_sets import ABSENT, LEVELS, BestTiers, HolderSets
from baton.router.key_table import FEW_KEYS, KeyTable, Slots

Counts = npt.NDArray[np.int64]
SetIds = npt.NDArray[np.uint32]
# Of sets, or of pairs of them.
AnyIds = npt.NDArray[Any]


class IndexTier(IntEnum):
    """Where a worker holds a block; the lower the better."""

    DEVICE = 0
    HOST = 1
    DISK = 2


# Levels of a holder (see `holder_sets`), best first: on the device, predicted there in one of four
# spans of time, and the lower tiers. A block that is predicted again in a later span keeps that
# level when the earlier prediction is over. A span's level is free again when its turn comes.
NUM_SPANS: Final = 4
# How long a prediction lasts where nothing else is said.
PREDICTED_TTL_S: Final = 2.0
_LEVEL_OF: Final = {IndexTier.DEVICE: 0, IndexTier.HOST: 5, IndexTier.DISK: 6}
TIER_OF_LEVEL: Final = (0, 0, 0, 0, 0, 1, 2, ABSENT)
# Keys that are looked up first, and by which factor more each time; what follows the first unknown
# key does not matter.
_FIRST_LOOK: Final = 256
_LOOK_GROWTH: Final = 4
# Stretches of equal sets that are evaluated at once.
_RUNS_AT_ONCE: Final = 64
# [tiers, 1]
_TIERS: Final = np.array([[tier] for tier in IndexTier], np.uint8)
# Slots that are looked at in one go when a worker is dropped: 1 MiB of them.
_SWEEP_SLOTS: Final = 2**18


@dataclass(frozen=True, slots=True, eq=False)
class Overlap:
    """How much of a prompt each worker holds, in blocks: `[num_rows]` each.

    Only blocks from the prompt's start on, without a gap, count; each counts once, for the best
    tier on which the worker has it. `best` is the largest sum of the three over all rows.
    """

    device: Counts
    host: Counts
    disk: Counts
    best: int

    def take(self, rows: npt.NDArray[np.intp] | slice) -> Overlap:
        """The same of some rows; `best` stays."""
        return Overlap(self.device[rows], self.host[rows], self.disk[rows], self.best)


class PrefixIndex:
    """Exact under `store`, `remove` and `drop_worker`; `predict` adds what is expected.

    Keys of one call need not be distinct. A prediction lasts `predicted_ttl_s`, up to a third more
    or less, and counts as being on the device.
    """

    def __init__(
        self,
        predicted_ttl_s: float = PREDICTED_TTL_S,
        table: KeyTable | None = None,
        sets: HolderSets | None = None,
    ) -> None:
        """`table` and `sets`, empty ones that others read too; by default its own."""
        self._table = KeyTable() if table is None else table
        self._sets = HolderSets(TIER_OF_LEVEL) if sets is None else sets
        # By row and tier, without predictions.
        self._num_blocks: list[list[int]] = []
        self._span_s = predicted_ttl_s / (NUM_SPANS - 1)
        self._predicted_ttl_s = predicted_ttl_s
        # (when it expires, holder, keys), oldest first.
        self._predicted: deque[tuple[float, int, IndexKeys]] = deque()

    @property
    def num_blocks(self) -> int:
        """(worker, tier, block) triples, without predictions."""
        return sum(map(sum, self._num_blocks))

    @property
    def num_rows(self) -> int:
        """All rows that were ever named are below it."""
        return len(self._num_blocks)

    @property
    def num_keys(self) -> int:
        """Distinct blocks, predicted ones included."""
        return len(self._table)

    @property
    def num_sets(self) -> int:
        """Distinct sets of holders."""
        return len(self._sets)

    def blocks_of(self, row: int) -> tuple[int, ...]:
        """How many blocks a worker has on each tier, without predictions."""
        none = (0,) * len(IndexTier)
        return tuple(self._num_blocks[row]) if row < self.num_rows else none

    # --- what workers say ---

    def store(self, row: int, tier: IndexTier, keys: IndexKeys) -> None:
        """A worker has these blocks on a tier. Idempotent."""
        self._see(row)
        holder = row * LEVELS + _LEVEL_OF[tier]
        self._num_blocks[row][tier] += self._add(keys, holder)

    def remove(self, row: int, tier: IndexTier, keys: IndexKeys) -> None:
        """A worker no longer has these blocks on a tier. Those it never had there are ignored."""
        self._see(row)
        holder = row * LEVELS + _LEVEL_OF[tier]
        self._num_blocks[row][tier] -= self._remove(keys, holder)

    def drop_worker(self, row: int) -> None:
        """Forget everything about a worker. One pass over the whole table, and over all sets."""
        if row >= self.num_rows:
            return
        kept = deque(p for p in self._predicted if p[1] // LEVELS != row)
        if len(kept) == len(self._predicted) and not any(self._num_blocks[row]):
            return
        self._predicted = kept
        self._num_blocks[row] = [0] * len(IndexTier)
        sets = self._sets
        becomes = np.arange(sets.limit, dtype=np.uint32)
        changed = sets.with_row(row)
        for set_id in changed:
            rest = becomes[set_id] = sets.without_row(set_id, row)
            sets.retain(rest, sets.num_blocks(set_id))
        for set_id in changed:
            sets.release(set_id, sets.num_blocks(set_id))
        values = self._table.values
        for start in range(0, len(values), _SWEEP_SLOTS):
            before = values[start : start + _SWEEP_SLOTS]
            after = becomes[before]
            emptied = start + np.flatnonzero((after == 0) & (before != 0))
            before[:] = after
            self._table.free(emptied)

    # --- what is to come ---

    def predict(self, row: int, keys: IndexKeys, now: float) -> None:
        """A worker was just given a prompt: it will soon have these blocks on its device."""
        self.expire(now)
        self._see(row)
        on_device = row * LEVELS + _LEVEL_OF[IndexTier.DEVICE]
        holder = row * LEVELS + 1 + int(now / self._span_s) % NUM_SPANS
        if len(keys) <= FEW_KEYS:
            new = few_keys.add_unless(self._table, self._sets, _signed(keys), holder, on_device)
            if len(new) < len(keys):
                keys = np.array(new, np.int64).view(np.uint64)
        else:
            # Most of a prompt is there already, as a rule.
            keys = keys[self._lacks(keys, on_device)]
            self._add(keys, holder)
        if len(keys):
            self._predicted.append((now + self._predicted_ttl_s, holder, keys))

    def expire(self, now: float) -> None:
        """Forget predictions whose time is over. Cheap when it is called often."""
        while self._predicted and self._predicted[0][0] <= now:
            _, holder, keys = self._predicted.popleft()
            self._remove(keys, holder)

    # --- the question ---

    def match(self, keys: IndexKeys, now: float, num_rows: int | None = None) -> Overlap:
        """Who holds how much of a prompt, whose keys are given from its start on.

        The answer has `num_rows` rows; by default as many as were ever named here.
        """
        self.expire(now)
        wanted = self.num_rows if num_rows is None else num_rows
        num_rows = max(self.num_rows, wanted)
        if len(keys) <= FEW_KEYS:
            few = few_keys.known_sets(self._table, _signed(keys))
            if not few:
                return no_overlap(wanted)
            set_ids: SetIds = np.array(few, np.uint32)
            are_equal = len(set(few)) == 1
        else:
            set_ids = until_unknown(keys, self._known_sets)
            if not len(set_ids):
                return no_overlap(wanted)
            are_equal = bool((set_ids == set_ids[0]).all())
        if are_equal:
            # Nearly always in short prompts.
            return count_all(len(set_ids), self.best_tiers(set_ids.item(0), num_rows), wanted)
        starts, lengths = runs(set_ids)
        of_runs = set_ids[starts]

        def best_tiers(some: slice) -> BestTiers:
            best = self.best_tiers
            return np.stack([best(set_id, num_rows) for set_id in of_runs[some].tolist()])

        return count_runs(lengths, best_tiers, num_rows, wanted)

    def set_ids(self, keys: IndexKeys) -> SetIds:
        """Set of each key, 0 where nobody holds it. Good until the next change."""
        return self._table.get(keys)

    def _known_sets(self, keys: IndexKeys) -> SetIds:
        """The same up to the first key that nobody holds."""
        slots = self._table.find(keys)
        (unknown,) = (slots < 0).nonzero()
        return self._table.values[slots[: unknown[0]] if len(unknown) else slots]

    def best_tiers(self, set_id: int, num_rows: int) -> BestTiers:
        """See HolderSets.best."""
        return self._sets.best(set_id, num_rows)

    # --- changes ---

    def _see(self, row: int) -> None:
        while row >= self.num_rows:
            self._num_blocks.append([0] * len(IndexTier))

    def _lacks(self, keys: IndexKeys, holder: int) -> npt.NDArray[np.bool_]:
        """Mask: keys that lack this holder."""
        slots = self._table.find(keys)
        lacks = slots < 0
        if lacks.all():
            return lacks
        # Of unknown keys it is that of some slot, which does not matter.
        set_ids = self._table.values[slots]
        starts, lengths = runs(set_ids)
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            if not self._sets.has(int(set_ids[start]), holder):
                lacks[start : start + length] = True
        return lacks

    def _add(self, keys: IndexKeys, holder: int) -> int:
        """Add a holder to keys that lack it; to how many."""
        if len(keys) <= FEW_KEYS:
            return few_keys.add(self._table, self._sets, _signed(keys), holder)
        slots = self._table.find_or_add(_distinct(keys))
        num_changed = 0
        for set_id, part in self._by_set(slots):
            num_changed += self._move(part, set_id, self._sets.with_holder(set_id, holder))
        return num_changed

    def _remove(self, keys: IndexKeys, holder: int) -> int:
        """Take a holder from keys that have it; from how many."""
        if len(keys) <= FEW_KEYS:
            return few_keys.remove(self._table, self._sets, _signed(keys), holder)
        slots = self._table.find(_distinct(keys))
        slots = slots[slots >= 0]
        num_changed = 0
        for set_id, part in self._by_set(slots):
            rest = self._sets.without_holder(set_id, holder)
            num_changed += self._move(part, set_id, rest)
            if not rest:
                self._table.free(part)
        return num_changed

    def _move(self, slots: Slots, old: int, new: int) -> int:
        if new == old:
            return 0
        self._sets.retain(new, len(slots))
        self._sets.release(old, len(slots))
        self._table.values[slots] = new
        return len(slots)

    def _by_set(self, slots: Slots) -> list[tuple[int, Slots]]:
        """Slots that share a set, for each set."""
        if not len(slots):
            return []
        set_ids = self._table.values[slots]
        first = int(set_ids[0])
        if (set_ids == first).all():
            return [(first, slots)]
        order = np.argsort(set_ids)
        ordered = set_ids[order]
        starts, _ = runs(ordered)
        parts = np.split(slots[order], starts[1:])
        return list(zip(ordered[starts].tolist(), parts, strict=True))


def until_unknown(keys: IndexKeys, look_up: Callable[[IndexKeys], AnyIds]) -> AnyIds:
    """What `look_up` says of some keys from their start on, as far as it says something."""
    start, size = 0, _FIRST_LOOK
    parts: list[AnyIds] = []
    while True:
        some = keys[start : start + size]
        parts.append(look_up(some))
        start += size
        size *= _LOOK_GROWTH
        if len(parts[-1]) < len(some) or start >= len(keys):
            return parts[0] if len(parts) == 1 else np.concatenate(parts)


def until_zero(ids: AnyIds) -> AnyIds:
    """Those before the first 0."""
    (zeros,) = (ids == 0).nonzero()
    return ids[: zeros[0]] if len(zeros) else ids


def runs(ids: AnyIds) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Where each stretch of equal ids starts, and how long it is; there is at least one."""
    (changes,) = (ids[1:] != ids[:-1]).nonzero()
    bounds = np.zeros(len(changes) + 2, np.intp)
    bounds[1:-1] = changes
    bounds[1:-1] += 1
    bounds[-1] = len(ids)
    return bounds[:-1], bounds[1:] - bounds[:-1]


@lru_cache(maxsize=8)
def no_overlap(num_rows: int) -> Overlap:
    """Nobody holds anything. The same for all who ask, so its arrays cannot be written to."""
    nothing = np.zeros(num_rows, np.int64)
    nothing.flags.writeable = False
    return Overlap(nothing, nothing, nothing, 0)


def count_all(num_blocks: int, best_tiers: BestTiers, wanted: int) -> Overlap:
    """Overlap with so many blocks that the same workers hold, on these tiers.

    Somebody holds all of them, and everybody all or none. The answer has `wanted` rows.
    """
    device, host, disk = (best_tiers[:wanted] == _TIERS) * num_blocks
    return Overlap(device, host, disk, num_blocks)


def count_runs(
    lengths: npt.NDArray[np.intp],
    best_tiers: Callable[[slice], BestTiers],
    num_rows: int,
    wanted: int,
) -> Overlap:
    """Overlap with blocks in runs of so many that the same workers hold.

    `best_tiers` gives some of the runs' best tiers: [runs, num_rows]. The answer has `wanted` rows.
    """
    if len(lengths) == 1:
        return count_all(int(lengths[0]), best_tiers(slice(1))[0], wanted)
    counts: Counts = np.zeros((len(IndexTier), num_rows), np.int64)
    unbroken = np.ones(num_rows, np.bool_)
    for at in range(0, len(lengths), _RUNS_AT_ONCE):
        some = slice(at, at + _RUNS_AT_ONCE)
        tiers = best_tiers(some)
        held = np.logical_and.accumulate(tiers != ABSENT, axis=0) & unbroken
        for tier in IndexTier:
            counts[tier] += lengths[some] @ (held & (tiers == tier.value))
        unbroken = held[-1]
        if not unbroken.any():
            break
    best = int(counts.sum(axis=0).max())
    device, host, disk = counts if wanted == num_rows else counts[:, :wanted]
    return Overlap(device, host, disk, best)


def _signed(keys: IndexKeys) -> list[int]:
    """As the table has them."""
    numbers: list[int] = keys.view(np.int64).tolist()
    return numbers


def _distinct(keys: IndexKeys) -> IndexKeys:
    """Sorted, each once."""
    ordered = np.sort(keys)
    new = ordered[1:] != ordered[:-1]
    return ordered if new.all() else np.concatenate((ordered[:1], ordered[1:][new]))
