"""The table of keys against a dictionary, while it grows and shrinks by random batches."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from baton.router.key_table import END_LOAD, KeyTable


def check(table: KeyTable, model: dict[int, int], absent: np.ndarray) -> None:
    keys = np.array(list(model), np.uint64)
    slots = table.find(keys)
    assert (slots >= 0).all() and len(set(slots.tolist())) == len(keys)
    assert table.values[slots].tolist() == list(model.values())
    assert (table.find(absent) < 0).all()
    # A few are looked up in another way than many.
    assert table.find(keys[-5:]).tolist() == slots[-5:].tolist()
    assert (table.find(absent[:5]) < 0).all()
    assert len(table) == len(model)


def signed(keys: np.ndarray) -> list[int]:
    return keys.view(np.int64).tolist()


def add(table: KeyTable, keys: np.ndarray) -> None:
    slots = table.find_or_add(keys)
    table.values[slots] = 1


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.booleans(), st.integers(0, 4000)), max_size=25),
)
@settings(deadline=None, max_examples=60)
def test_table_is_a_dictionary(seed: int, batches: list[tuple[bool, int]]) -> None:
    rng = np.random.default_rng(seed)
    table, model, value = KeyTable(), dict[int, int](), 1
    absent = rng.integers(1, 2**64, 50, np.uint64)
    for is_add, count in batches:
        if is_add:
            old = rng.permutation(np.array(list(model), np.uint64))[: count // 4]
            keys = np.concatenate((rng.integers(1, 2**64, count, np.uint64), old))
            slots = table.find_or_add(keys)
            fresh = table.values[slots] == 0
            assert int(fresh.sum()) == count
            values = np.arange(value, value + len(keys), dtype=np.uint32)
            value += len(keys)
            table.values[slots] = values
            model.update(zip(keys.tolist(), values.tolist(), strict=True))
        else:
            keys = rng.permutation(np.array(list(model), np.uint64))[:count]
            table.free(table.find(keys))
            for key in keys.tolist():
                del model[key]
        check(table, model, absent)


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=60),
)
@settings(deadline=None, max_examples=60)
def test_few_keys_and_many_meet_in_one_table(seed: int, batches: list[tuple[bool, int]]) -> None:
    """A table that is full to its bound, so that buckets are, and it doubles meanwhile."""
    rng = np.random.default_rng(seed)
    table = KeyTable()
    add(table, rng.integers(1, 2**64, 500, np.uint64))
    model = dict[int, int]()
    absent = rng.integers(1, 2**64, 50, np.uint64)
    for value, (is_add, count) in enumerate(batches, 1):
        if is_add:
            new = rng.integers(1, 2**64, count, np.uint64)
            keys = np.concatenate((new, np.array(list(model)[:3], np.uint64)))
            slots = table.find_or_add_few(signed(keys))
            assert slots == table.find(keys).tolist()
            assert [table.value_at[slot] for slot in slots[:count]] == [0] * count
            for key, slot in zip(keys.tolist(), slots, strict=True):
                model[key] = table.value_at[slot] = value
        else:
            keys = np.array(list(model)[:count], np.uint64)
            table.free_few(table.find_few(signed(keys)))
            for key in keys.tolist():
                del model[key]
        many = np.array(list(model), np.uint64)
        assert table.values[table.find(many)].tolist() == list(model.values())
        assert table.find_few(signed(absent)) == [-1] * len(absent)
        assert len(table) == 500 + len(model)


def test_churn_does_not_make_it_grow() -> None:
    rng = np.random.default_rng(1)
    table = KeyTable()
    live = [rng.integers(1, 2**64, 500, np.uint64) for _ in range(20)]
    for keys in live:
        add(table, keys)
    size = table.values.size
    for _ in range(300):
        table.free(table.find(live.pop(0)))
        live.append(rng.integers(1, 2**64, 500, np.uint64))
        add(table, live[-1])
    assert table.values.size == size
    assert len(table) == 10_000


def test_doubling_is_spread_over_many_calls() -> None:
    """A call splits a bounded number of buckets, and is done before the table fills up."""
    rng = np.random.default_rng(2)
    table = KeyTable()
    keys = rng.integers(1, 2**64, 200_000, np.uint64)
    for start in range(0, len(keys), 100):
        slots = table.find_or_add(keys[start : start + 100])
        table.values[slots] = np.arange(start, start + 100) + 1
        assert len(table) <= END_LOAD * table.values.size
    assert (table.values[table.find(keys)] == np.arange(len(keys)) + 1).all()
    assert table.values.size <= 4 * len(keys)
