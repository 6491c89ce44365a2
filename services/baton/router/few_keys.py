"""What `prefix_index` does with few keys: one after the other, as plain numbers.

A short prompt has a handful of blocks, an event often one. There an operation on an array takes
longer than the work itself; with more keys than `key_table.FEW_KEYS` arrays are faster. Keys are
signed numbers here, and need not be distinct.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from baton.router.holder_sets import HolderSets
from baton.router.key_table import KeyTable


def known_sets(table: KeyTable, keys: Sequence[int]) -> list[int]:
    """Set of each key, up to the first that nobody holds."""
    slots = table.find_few(keys)
    if -1 in slots:
        del slots[slots.index(-1) :]
    return [table.value_at[slot] for slot in slots]


def add(table: KeyTable, sets: HolderSets, keys: Iterable[int], holder: int) -> int:
    """Add a holder to keys that lack it; to how many."""
    slots = table.find_or_add_few(tuple(dict.fromkeys(keys)))
    return _change(table, sets, slots, sets.with_holder, holder)


def add_unless(
    table: KeyTable, sets: HolderSets, keys: Iterable[int], holder: int, other: int
) -> list[int]:
    """Add a holder to keys that lack the other one, and say which these are."""
    distinct = tuple(dict.fromkeys(keys))
    slots = table.find_or_add_few(distinct)
    lacking, lacking_slots = [], []
    looked_at, has_other = -1, False
    for key, slot in zip(distinct, slots, strict=True):
        set_id = table.value_at[slot]
        if set_id != looked_at:
            looked_at, has_other = set_id, sets.has(set_id, other)
        if not has_other:
            lacking.append(key)
            lacking_slots.append(slot)
    _change(table, sets, lacking_slots, sets.with_holder, holder)
    return lacking


def remove(table: KeyTable, sets: HolderSets, keys: Iterable[int], holder: int) -> int:
    """Take a holder from keys that have it; from how many."""
    slots = [slot for slot in table.find_few(tuple(dict.fromkeys(keys))) if slot >= 0]
    num_changed = _change(table, sets, slots, sets.without_holder, holder)
    table.free_few([slot for slot in slots if not table.value_at[slot]])
    return num_changed


def _change(
    table: KeyTable,
    sets: HolderSets,
    slots: Sequence[int],
    become: Callable[[int, int], int],
    holder: int,
) -> int:
    """Give the keys in these slots the sets that theirs become; how many have another now."""
    values = table.value_at
    num_changed = 0
    for old, stretch in groupby(slots, values.__getitem__):
        new = become(old, holder)
        if new == old:
            continue
        alike = list(stretch)
        sets.retain(new, len(alike))
        sets.release(old, len(alike))
        for slot in alike:
            values[slot] = new
        num_changed += len(alike)
    return num_changed
