"""The prefix index says what a plain dictionary would, whatever happens to it."""

from __future__ import annotations

import hashlib
from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from baton.core.block_hash import IndexKeys
from baton.router.prefix_index import IndexTier, PrefixIndex

DEVICE, HOST, DISK = IndexTier
TTL_S = 3.0
# Long enough for any prediction to be over.
LATER_S = 2 * TTL_S
NUM_ROWS = 6


def key_of(number: int) -> int:
    return int.from_bytes(hashlib.blake2b(number.to_bytes(8, "little"), digest_size=8).digest())


def keys_of(*numbers: int) -> IndexKeys:
    return np.array([key_of(number) for number in numbers], np.uint64)


def counts(index: PrefixIndex, keys: IndexKeys, now: float = 0.0) -> dict[int, tuple[int, ...]]:
    """Row to (device, host, disk), for rows that hold any."""
    overlap = index.match(keys, now)
    columns = np.stack((overlap.device, overlap.host, overlap.disk), axis=1)
    held = {row: tuple(c) for row, c in enumerate(columns.tolist()) if any(c)}
    assert overlap.best == max((sum(c) for c in held.values()), default=0)
    return held


class Model:
    """Row to key to its tiers; predictions apart."""

    def __init__(self) -> None:
        self.held: dict[int, dict[int, set[IndexTier]]] = {row: {} for row in range(NUM_ROWS)}
        self.predicted: dict[int, set[int]] = {row: set() for row in range(NUM_ROWS)}

    def counts(self, keys: list[int]) -> dict[int, tuple[int, ...]]:
        found = {}
        for row, held in self.held.items():
            by_tier = [0, 0, 0]
            for key in keys:
                tiers = set(held.get(key, ()))
                if key in self.predicted[row]:
                    tiers.add(DEVICE)
                if not tiers:
                    break
                by_tier[min(tiers)] += 1
            if any(by_tier):
                found[row] = tuple(by_tier)
        return found

    def num_blocks(self, row: int) -> tuple[int, ...]:
        return tuple(sum(tier in tiers for tiers in self.held[row].values()) for tier in IndexTier)


numbers = st.lists(st.integers(0, 40), max_size=25)
spans = st.builds(lambda a, n: list(range(a, a + n)), st.integers(0, 30), st.integers(0, 12))
rows = st.integers(0, NUM_ROWS - 1)
tiers = st.sampled_from(IndexTier)


class IndexMachine(RuleBasedStateMachine):
    """Random events of random workers, rows used again, duplicates, snapshots, predictions."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex(TTL_S)
        self.model = Model()
        self.now = 1000.0

    @rule(row=rows, tier=tiers, some=numbers | spans)
    def store(self, row: int, tier: IndexTier, some: list[int]) -> None:
        self.index.store(row, tier, keys_of(*some))
        for number in some:
            self.model.held[row].setdefault(number, set()).add(tier)

    @rule(row=rows, tier=tiers, some=numbers | spans)
    def remove(self, row: int, tier: IndexTier, some: list[int]) -> None:
        self.index.remove(row, tier, keys_of(*some))
        for number in some:
            self.model.held[row].get(number, set()).discard(tier)

    @rule(row=rows)
    def drop(self, row: int) -> None:
        self.index.drop_worker(row)
        self.model.held[row].clear()
        self.model.predicted[row].clear()

    @rule(row=rows, device=spans, host=spans)
    def snapshot(self, row: int, device: list[int], host: list[int]) -> None:
        self.drop(row)
        self.store(row, DEVICE, device)
        self.store(row, HOST, host)

    @rule(row=rows, some=spans)
    def predict(self, row: int, some: list[int]) -> None:
        self.index.predict(row, keys_of(*some), self.now)
        # What is there already needs no prediction, and gets none.
        held = self.model.held[row]
        self.model.predicted[row] |= {n for n in some if DEVICE not in held.get(n, ())}

    @precondition(lambda self: any(self.model.predicted.values()))
    @rule()
    def time_passes(self) -> None:
        self.now += LATER_S
        for predicted in self.model.predicted.values():
            predicted.clear()

    @rule(prompt=numbers | spans)
    def ask(self, prompt: list[int]) -> None:
        assert counts(self.index, keys_of(*prompt), self.now) == self.model.counts(prompt)

    @invariant()
    def agrees(self) -> None:
        for start in (0, 7, 20):
            self.ask(list(range(start, 42)))
        for row in range(NUM_ROWS):
            assert self.index.blocks_of(row) == self.model.num_blocks(row)
        known = set()
        for row in range(NUM_ROWS):
            known |= {n for n, tiers in self.model.held[row].items() if tiers}
            known |= self.model.predicted[row]
        assert self.index.num_keys == len(known)

    def teardown(self) -> None:
        self.now += LATER_S
        self.index.expire(self.now)
        for row in range(NUM_ROWS):
            self.index.drop_worker(row)
        assert (self.index.num_keys, self.index.num_sets, self.index.num_blocks) == (0, 0, 0)


TestIndexMachine: Any = IndexMachine.TestCase
TestIndexMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_blocks_after_a_gap_or_without_the_start_do_not_count() -> None:
    index = PrefixIndex()
    index.store(0, DEVICE, keys_of(1, 2, 4, 5))
    index.store(1, DEVICE, keys_of(2, 3, 4, 5))
    assert counts(index, keys_of(1, 2, 3, 4, 5)) == {0: (2, 0, 0)}


def test_each_block_counts_once_for_its_best_tier() -> None:
    index = PrefixIndex()
    index.store(2, DEVICE, keys_of(1, 2))
    index.store(2, HOST, keys_of(1, 2, 3, 4))
    index.store(2, DISK, keys_of(3, 5, 6))
    assert counts(index, keys_of(1, 2, 3, 4, 5, 6, 7)) == {2: (2, 2, 2)}
    index.remove(2, HOST, keys_of(3))
    assert counts(index, keys_of(1, 2, 3, 4, 5)) == {2: (2, 1, 2)}


def test_prediction_covers_siblings_until_it_is_over_or_true() -> None:
    index = PrefixIndex(TTL_S)
    index.predict(1, keys_of(1, 2, 3), now=10.0)
    assert index.num_blocks == 0
    for now in (10.0, 10.0 + 0.6 * TTL_S):
        assert counts(index, keys_of(1, 2, 9), now) == {1: (2, 0, 0)}
    index.store(1, DEVICE, keys_of(1))
    assert counts(index, keys_of(1, 2, 9), now=10.0 + 1.4 * TTL_S) == {1: (1, 0, 0)}


def test_siblings_prolong_a_prediction() -> None:
    """A burst that lasts longer than a prediction is covered until it ends."""
    index = PrefixIndex(TTL_S)
    now = 100.0
    for number in range(50):
        index.predict(1, keys_of(1, 2, 1000 + number), now)
        now += TTL_S / 5
        assert counts(index, keys_of(1, 2, 5), now) == {1: (2, 0, 0)}
    index.expire(now + 2 * TTL_S)
    assert index.num_keys == 0


def test_prediction_of_a_worker_that_left_is_not_its_successors() -> None:
    index = PrefixIndex(TTL_S)
    index.predict(1, keys_of(1, 2), now=0.0)
    index.drop_worker(1)
    assert counts(index, keys_of(1, 2)) == {}


def test_answer_has_as_many_rows_as_asked_for() -> None:
    index = PrefixIndex()
    index.store(3, DEVICE, keys_of(1))
    assert len(index.match(keys_of(1), 0.0).device) == 4
    assert index.match(keys_of(1), 0.0, num_rows=6).device.tolist() == [0, 0, 0, 1, 0, 0]
    assert index.match(keys_of(1), 0.0, num_rows=2).disk.tolist() == [0, 0]


def test_long_prompt_with_many_different_holders() -> None:
    """More stretches of equal sets than are evaluated at once, more keys than in a first look."""
    index = PrefixIndex()
    chain = list(range(3000))
    for row in range(150):
        index.store(row, DEVICE, keys_of(*chain[: 20 * (row + 1)]))
        index.store(row, HOST, keys_of(*chain[: 20 * (row + 1) + 7]))
    expected = {row: (20 * (row + 1), 7 if row < 149 else 0, 0) for row in range(150)}
    assert counts(index, keys_of(*chain)) == expected
