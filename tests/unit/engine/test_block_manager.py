"""Blocks and the prefix cache of one group: one state each, evicted oldest first."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from baton.core.kv import GroupSpec
from baton.engine.block_manager import BlockManager, BlockPool


def spec(block_size: int = 4) -> GroupSpec:
    return GroupSpec("full", 1, 1, 4, 4, block_size, "uint8")


def pool(num_blocks: int = 4) -> BlockPool:
    return BlockPool(spec(), num_blocks)


def cached_block(of: BlockPool, block_hash: bytes) -> int:
    """A block in the cache that nobody uses."""
    block = of.allocate()
    of.cache.add(block_hash, block)
    of.free(block)
    return block


def test_blocks_are_handed_out_once() -> None:
    blocks = pool()
    assert sorted(blocks.allocate() for _ in range(4)) == [0, 1, 2, 3]
    assert blocks.num_free == 0


def test_generation_tells_the_lives_of_a_block_apart() -> None:
    blocks = pool(1)
    for life in (1, 2, 3):
        block = blocks.allocate()
        assert blocks.generation(block) == life
        blocks.free(block)


def test_shared_block_is_free_after_its_last_owner() -> None:
    blocks = pool()
    block = blocks.allocate()
    blocks.share(block)
    blocks.free(block)
    assert blocks.num_free == 3
    blocks.free(block)
    assert blocks.num_free == 4


def test_freeing_twice_is_noticed() -> None:
    blocks = pool()
    block = blocks.allocate()
    blocks.free(block)
    with pytest.raises(AssertionError, match="freed twice"):
        blocks.free(block)


def test_free_blocks_go_before_cached_ones_and_those_by_last_use() -> None:
    blocks = pool(4)
    first, second = cached_block(blocks, b"1"), cached_block(blocks, b"2")
    # Used again, so the other is older now.
    blocks.share(first)
    blocks.free(first)
    taken = [blocks.allocate() for _ in range(3)]
    assert first not in taken and taken[2] == second
    assert blocks.cache.get(b"2") is None
    assert blocks.cache.get(b"1") == first


def test_tail_of_a_table_is_evicted_before_its_head() -> None:
    blocks = pool(3)
    table = [blocks.allocate() for _ in range(3)]
    for index, block in enumerate(table):
        blocks.cache.add(bytes([index]), block)
    blocks.free_all(table)
    assert [blocks.allocate() for _ in range(3)] == table[::-1]


def test_cached_block_in_use_is_never_evicted() -> None:
    blocks = pool(2)
    kept = blocks.allocate()
    blocks.cache.add(b"kept", kept)
    blocks.allocate()
    assert blocks.num_free == 0
    assert blocks.cache.get(b"kept") == kept


def test_second_block_of_a_hash_stays_out_of_the_cache() -> None:
    blocks = pool()
    one, other = blocks.allocate(), blocks.allocate()
    blocks.cache.add(b"h", one)
    blocks.cache.add(b"h", other)
    assert blocks.cache.get(b"h") == one
    blocks.free(other)
    blocks.free(one)
    assert blocks.cache.num_idle == 1
    assert blocks.num_free == 4


def test_cache_changes_are_net() -> None:
    blocks = pool(1)
    cached_block(blocks, b"a")
    assert blocks.cache.take_changes() == ((b"a",), ())
    cached_block(blocks, b"b")
    cached_block(blocks, b"c")
    assert blocks.cache.take_changes() == ((b"c",), (b"a",))
    cached_block(blocks, b"d")
    cached_block(blocks, b"c")
    assert blocks.cache.take_changes() == ((), ())


def test_quarantined_block_is_not_free_until_lifted() -> None:
    blocks = pool(2)
    block = blocks.allocate()
    blocks.quarantine(block)
    assert blocks.num_free == 1 and blocks.num_quarantined == 1
    assert blocks.allocate() != block
    blocks.lift(block)
    assert blocks.allocate() == block
    assert blocks.generation(block) == 2


def test_prefix_hit_is_what_all_groups_hold() -> None:
    manager = BlockManager([spec(4), spec(6)], [8, 8])
    hashes = [[b"a0", b"a1", b"a2", b"a3"], [b"b0", b"b1", b"b2"]]
    for block_hash in hashes[0]:
        cached_block(manager.pools[0], block_hash)
    for block_hash in hashes[1][:2]:
        cached_block(manager.pools[1], block_hash)
    # 16 tokens against 12: both hold 12.
    num_tokens, found = manager.longest_prefix(hashes, 100)
    assert num_tokens == 12
    assert [len(blocks) for blocks in found] == [3, 2]
    # Neither 10 nor 8 nor 6 tokens are full blocks of both.
    assert manager.longest_prefix(hashes, 11) == (0, [[], []])


class PoolMachine(RuleBasedStateMachine):
    """The pool against counts kept by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = pool(5)
        self.owners: Counter[int] = Counter()
        self.apart: list[int] = []
        self.num_hashes = 0

    @precondition(lambda self: self.pool.num_free > 0)
    @rule()
    def allocate(self) -> None:
        block = self.pool.allocate()
        assert block not in self.owners and block not in self.apart
        self.owners[block] = 1

    @precondition(lambda self: self.owners)
    @rule(pick=st.integers(0, 99))
    def share(self, pick: int) -> None:
        block = sorted(self.owners)[pick % len(self.owners)]
        self.pool.share(block)
        self.owners[block] += 1

    @precondition(lambda self: len(self.pool.cache))
    @rule(pick=st.integers(0, 99))
    def hit(self, pick: int) -> None:
        hashes = self.pool.cache.hashes()
        (block,) = self.pool.cached([hashes[pick % len(hashes)]])
        self.pool.share(block)
        self.owners[block] += 1

    @precondition(lambda self: self.owners)
    @rule(pick=st.integers(0, 99))
    def free(self, pick: int) -> None:
        block = sorted(self.owners)[pick % len(self.owners)]
        self.pool.free(block)
        self.owners[block] -= 1
        if not self.owners[block]:
            del self.owners[block]

    @precondition(lambda self: self.owners)
    @rule(pick=st.integers(0, 99), new=st.booleans())
    def cache(self, pick: int, new: bool) -> None:
        block = sorted(self.owners)[pick % len(self.owners)]
        if not self.pool.cache.holds(block):
            self.num_hashes += new
            self.pool.cache.add(self.num_hashes.to_bytes(4, "big"), block)

    @precondition(lambda self: self.owners)
    @rule(pick=st.integers(0, 99))
    def quarantine(self, pick: int) -> None:
        block = sorted(self.owners)[pick % len(self.owners)]
        if self.owners[block] == 1 and not self.pool.cache.holds(block):
            self.pool.quarantine(block)
            del self.owners[block]
            self.apart.append(block)

    @precondition(lambda self: self.apart)
    @rule()
    def lift(self) -> None:
        self.pool.lift(self.apart.pop())

    @invariant()
    def every_block_has_one_state(self) -> None:
        self.pool.check(self.owners, self.apart)


PoolMachine.TestCase.settings = settings(
    derandomize=True, deadline=None, max_examples=40, stateful_step_count=40
)
TestPool = PoolMachine.TestCase
