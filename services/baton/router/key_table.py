"""A hash table from 64-bit keys to 32-bit values that works on whole arrays of keys.

Buckets of eight slots, and two of them where a key may be: the low and the high half of the key say
which, so keys must be random bits, as block hashes are. Eight keys are one cache line and one
comparison. Deleting frees the slot: there are no tombstones, so churn never asks for a rebuild.
When half of the slots are taken the number of buckets doubles, a few buckets with each call (linear
hashing), so that no call takes long. The arrays reserve address space beyond what is used; only a
table of a process' own that outgrows it is copied at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Values = npt.NDArray[np.uint32]
# Where keys are: [num_keys], -1 for those that are not there.
Slots = npt.NDArray[np.intp]

BUCKET_SLOTS = 8
_SLOT_BITS = 3
_LEAST_BUCKETS = 128
# Reserved from the start: 16 million keys. Memory that was never touched takes none.
_RESERVED_BUCKETS = 2**22
# A table begins to double at this share of taken slots, and has to be done at the other one; in
# between all buckets have room (of 1e8 keys one would find both of its buckets full, tried).
START_LOAD = 0.5
END_LOAD = 0.6
# While it doubles, buckets split per new key, and per call at least.
SPLITS_PER_KEY = 4
LEAST_SPLITS = 512
# So many are dealt with faster one by one, as plain numbers, than all at once.
FEW_KEYS = 8


class TableArrays(Protocol):
    """Where a table's keys and values are."""

    def reserve(self, num_buckets: int) -> tuple[npt.NDArray[np.int64], Values]:
        """For so many buckets at least: keys `[buckets, BUCKET_SLOTS]`, values `[slots]`.

        They begin with what was there before, and go on with zeros.
        """

    def show(self, shape: tuple[int, int]) -> None:
        """The table has this shape from now on. Keys that moved are still where they were, too."""


class _OwnArrays:
    """Memory of this process."""

    def __init__(self) -> None:
        self._keys = np.zeros((_RESERVED_BUCKETS, BUCKET_SLOTS), np.int64)
        self._values: Values = np.zeros(self._keys.size, np.uint32)

    def reserve(self, num_buckets: int) -> tuple[npt.NDArray[np.int64], Values]:
        if num_buckets > len(self._keys):
            keys, values = self._keys, self._values
            self._keys = np.zeros((2 * num_buckets, BUCKET_SLOTS), np.int64)
            self._values = np.zeros(self._keys.size, np.uint32)
            self._keys[: len(keys)] = keys
            self._values[: len(values)] = values
        return self._keys, self._values

    def show(self, shape: tuple[int, int]) -> None:
        """Nobody else looks."""


class KeyTable:
    """Keys are not 0, and distinct within a call. Slots hold until the next `find_or_add`."""

    def __init__(self, arrays: TableArrays | None = None) -> None:
        """`arrays` that others read too; by default its own."""
        self._arrays = _OwnArrays() if arrays is None else arrays
        self._count = 0
        # Buckets before the doubling under way, and those of them that are split.
        self._num_buckets = _LEAST_BUCKETS
        self._num_split = 0
        # [num_buckets, BUCKET_SLOTS], 0 for a free slot; twice as many buckets while it doubles.
        self._keys: npt.NDArray[np.int64]
        # By slot: [num_buckets * BUCKET_SLOTS]. 0 for free slots and new keys.
        self.values: Values
        # The same memory for one key, or one value, after the other: numpy takes twice as long.
        self._key_at: memoryview
        self.value_at: memoryview
        self._extend(_LEAST_BUCKETS)

    def __len__(self) -> int:
        return self._count

    @property
    def shape(self) -> tuple[int, int]:
        """What `follow` needs beside the arrays."""
        return self._num_buckets, self._num_split

    def follow(self, shape: tuple[int, int]) -> None:
        """Be the table of this `shape` that another process has in the arrays. For looking up."""
        if shape != self.shape:
            self._num_buckets, self._num_split = shape
            self._extend(2 * self._num_buckets if self._num_split else self._num_buckets)

    def find(self, keys: Keys) -> Slots:
        """Slots of keys."""
        signed = keys.view(np.int64)
        if len(signed) <= FEW_KEYS:
            return np.array(self.find_few(signed.tolist()), np.intp)
        slots = np.empty(len(signed), np.intp)
        slots.fill(-1)
        self._look(signed, self._first(signed), slots, None)
        (missing,) = (slots < 0).nonzero()
        if len(missing):
            rest = signed[missing]
            self._look(rest, self._second(rest), slots, missing)
        return slots

    def get(self, keys: Keys) -> Values:
        """Values of keys, 0 for those that are not there."""
        slots = self.find(keys)
        values = self.values.take(slots, mode="clip")
        values[slots < 0] = 0
        return values

    def get_while_changing(self, keys: Keys) -> tuple[Values, npt.NDArray[np.bool_]]:
        """As `get`, in a table that another process changes; and a mask of keys whose slot was
        another one's before the value was read.
        """
        slots = self.find(keys)
        values = self.values.take(slots, mode="clip")
        is_unknown = slots < 0
        values[is_unknown] = 0
        is_same = self._keys.reshape(-1).take(slots, mode="clip") == keys.view(np.int64)
        return values, ~(is_same | is_unknown)

    def find_or_add(self, keys: Keys) -> Slots:
        """Slots of keys; new ones get one, with value 0."""
        self._make_room(len(keys))
        while True:
            slots = self.find(keys)
            missing = np.flatnonzero(slots < 0)
            if not len(missing) or self._insert(keys.view(np.int64), missing, slots):
                return slots
            # Bad luck: both buckets of a key are full.
            self._double()

    def free(self, slots: Slots) -> None:
        """Delete the keys in these slots, which are taken and distinct."""
        self._keys.reshape(-1)[slots] = 0
        self.values[slots] = 0
        self._count -= len(slots)

    # --- the same for few keys, as signed numbers ---

    def find_few(self, keys: Sequence[int]) -> list[int]:
        """See `find`."""
        key_at, low, num_split = self._key_at, self._num_buckets - 1, self._num_split
        slots = []
        for key in keys:
            slot = -1
            for bits in (key, key >> 32):
                # See `_bucket`.
                bucket = bits & low
                if bucket < num_split:
                    bucket = bits & (2 * low + 1)
                start = bucket << _SLOT_BITS
                taken = key_at[start : start + BUCKET_SLOTS].tolist()
                if key in taken:
                    slot = start + taken.index(key)
                    break
            slots.append(slot)
        return slots

    def find_or_add_few(self, keys: Sequence[int]) -> list[int]:
        """See `find_or_add`."""
        self._make_room(len(keys))
        while True:
            slots = self.find_few(keys)
            if self._insert_few(keys, slots):
                return slots
            self._double()

    def free_few(self, slots: Sequence[int]) -> None:
        """See `free`."""
        for slot in slots:
            self._key_at[slot] = 0
            self.value_at[slot] = 0
        self._count -= len(slots)

    # --- where keys go ---

    def _first(self, signed: npt.NDArray[np.int64]) -> Slots:
        return self._bucket(signed)

    def _second(self, signed: npt.NDArray[np.int64]) -> Slots:
        return self._bucket(signed >> 32)

    def _bucket(self, bits: npt.NDArray[np.int64]) -> Slots:
        bucket = bits & (self._num_buckets - 1)
        if self._num_split:
            split = bits & (2 * self._num_buckets - 1)
            bucket = np.where(bucket < self._num_split, split, bucket)
        return bucket

    def _look(
        self,
        signed: npt.NDArray[np.int64],
        buckets: Slots,
        slots: Slots,
        where: npt.NDArray[np.intp] | None,
    ) -> None:
        """Set `slots[where]` of those keys that are in these buckets."""
        equal = self._keys.take(buckets, axis=0) == signed[:, None]
        rows, at = equal.nonzero()
        found = (buckets[rows] << _SLOT_BITS) | at
        slots[rows if where is None else where[rows]] = found

    def _insert(
        self, signed: npt.NDArray[np.int64], missing: npt.NDArray[np.intp], slots: Slots
    ) -> bool:
        """Give slots to the missing keys; False when one finds no room (others have theirs)."""
        flat = self._keys.reshape(-1)
        while len(missing):
            keys = signed[missing]
            first, second = self._first(keys), self._second(keys)
            free = self._keys.take(first, axis=0) == 0
            other = self._keys.take(second, axis=0) == 0
            # The emptier bucket: that evens them out far better than chance.
            swap = _num_true(other) > _num_true(free)
            buckets = np.where(swap, second, first)
            free[swap] = other[swap]
            slot = free.argmax(axis=1)
            if not free[np.arange(len(slot)), slot].all():
                return False
            taken = (buckets << _SLOT_BITS) | slot
            # Of those that want the same slot, the last one gets it.
            flat[taken] = keys
            won = flat[taken] == keys
            slots[missing[won]] = taken[won]
            self._count += int(np.count_nonzero(won))
            missing = missing[~won]
        return True

    def _insert_few(self, keys: Sequence[int], slots: list[int]) -> bool:
        """See `_insert`; those that are missing have slot -1."""
        key_at, low, num_split = self._key_at, self._num_buckets - 1, self._num_split
        for i, key in enumerate(keys):
            if slots[i] >= 0:
                continue
            most_free = 0
            for bits in (key, key >> 32):
                bucket = bits & low
                if bucket < num_split:
                    bucket = bits & (2 * low + 1)
                start = bucket << _SLOT_BITS
                taken = key_at[start : start + BUCKET_SLOTS].tolist()
                num_free = taken.count(0)
                if num_free > most_free:
                    most_free = num_free
                    slots[i] = start + taken.index(0)
            if not most_free:
                return False
            key_at[slots[i]] = key
            self._count += 1
        return True

    # --- growth ---

    def _make_room(self, num_new: int) -> None:
        wanted = self._count + num_new
        if self._num_split:
            self._split(max(LEAST_SPLITS, SPLITS_PER_KEY * num_new))
        while wanted > END_LOAD * BUCKET_SLOTS * self._num_buckets:
            self._double()
        if not self._num_split and wanted > START_LOAD * BUCKET_SLOTS * self._num_buckets:
            self._split(LEAST_SPLITS)

    def _double(self) -> None:
        """Double at once, or finish what is under way."""
        self._split(self._num_buckets - self._num_split)

    def _split(self, count: int) -> None:
        """Split so many buckets: the next bit of a key says if it stays or moves up."""
        half = self._num_buckets
        if not self._num_split:
            self._extend(2 * half)
        start, end = self._num_split, min(half, self._num_split + count)
        low, high = self._keys[start:end], self._keys[half + start : half + end]
        buckets = np.arange(start, end)[:, None]
        is_first = (low & (half - 1)) == buckets
        bits = np.where(is_first, low, low >> 32)
        moves = ((bits & half) != 0) & (low != 0)
        values = self.values.reshape(-1, BUCKET_SLOTS)
        low_values, high_values = values[start:end], values[half + start : half + end]
        high[moves] = low[moves]
        high_values[moves] = low_values[moves]
        self._num_split = end
        if end == half:
            self._num_buckets, self._num_split = 2 * half, 0
        self._arrays.show(self.shape)
        low[moves] = 0
        low_values[moves] = 0

    def _extend(self, num_buckets: int) -> None:
        keys, values = self._arrays.reserve(num_buckets)
        self._keys = keys[:num_buckets]
        self.values = values[: self._keys.size]
        self._key_at = self._keys.reshape(-1).data
        self.value_at = self.values.data


def _num_true(mask: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Per row of a [n, 8] mask: its bytes are summed by one multiplication."""
    return (mask.view(np.uint64)[:, 0] * np.uint64(0x0101010101010101)) >> np.uint64(56)
