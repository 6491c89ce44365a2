"""The small index of a simulated fleet gives the answers of the router's own."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.core.block_hash import index_keys
from baton.router.prefix_index import IndexTier, PrefixIndex
from baton.sim.small_index import SmallIndex
from baton.sim.workload import block_hash

NUM_ROWS = 5
HASHES = [block_hash(number) for number in range(24)]

blocks = st.lists(st.sampled_from(HASHES), max_size=12)
rows = st.integers(0, NUM_ROWS - 1)
changes = st.tuples(st.sampled_from(["store", "remove", "predict"]), rows, blocks)
# Seconds that go by, what happens then, and a prompt of which somebody asks.
prompts = st.tuples(st.integers(0, 8), st.integers(0, len(HASHES)))
steps = st.lists(st.tuples(st.sampled_from([0.0, 0.3, 0.7, 2.5]), changes, prompts), max_size=25)


@given(steps=steps)
@settings(max_examples=100, deadline=None)
def test_answers_are_those_of_the_prefix_index(
    steps: list[tuple[float, tuple[str, int, list[bytes]], tuple[int, int]]],
) -> None:
    small, index = SmallIndex(NUM_ROWS), PrefixIndex()
    now = 0.0
    for passed_s, (change, row, hashes), (start, end) in steps:
        now += passed_s
        keys = index_keys(hashes)
        if change == "predict":
            small.predict(row, hashes, now)
            index.predict(row, keys, now)
        elif change == "store":
            small.store(row, hashes)
            index.store(row, IndexTier.DEVICE, keys)
        else:
            small.remove(row, hashes)
            index.remove(row, IndexTier.DEVICE, keys)
        prompt = HASHES[start:end]
        found = small.match(prompt, now)
        expected = index.match(index_keys(prompt), now, NUM_ROWS)
        assert np.array_equal(found.device, expected.device)
        assert found.best == expected.best
    # Each block by itself, when no prediction counts any more.
    for block in HASHES:
        held = small.match([block], now + 10).device
        assert np.array_equal(held, index.match(index_keys([block]), now + 10, NUM_ROWS).device)


def test_a_worker_counts_up_to_its_first_missing_block() -> None:
    small = SmallIndex(3)
    small.store(0, HASHES[:4])
    small.store(1, HASHES[1:9])
    small.store(2, HASHES[:2])
    assert small.match(HASHES[:9], 0.0).device.tolist() == [4, 0, 2]
    assert small.match([], 0.0).best == 0
