"""Allocate, share and free KV blocks, per attention group. No torch here.

A block is in exactly one state: free; idle (unused, but its KV can be found by hash); in use by
`refs` owners (sequences, or a reservation for KV that is on its way); quarantined (a write of a
failed handoff may still land in it).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf

from baton.core.kv import GroupSpec
from baton.engine.batch import BlockCopy
from baton.engine.prefix_cache import PrefixCache
from baton.engine.sequence import Sequence


class BlockPool:
    """The blocks of one group."""

    def __init__(self, spec: GroupSpec, num_blocks: int) -> None:
        self.spec = spec
        self.size = num_blocks
        self.cache = PrefixCache()
        self.num_quarantined = 0
        self._refs = [0] * num_blocks
        self._generations = [0] * num_blocks
        # A stack: low ids first, and recently freed blocks are reused first.
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated now; idle ones are evicted for it."""
        return len(self._free) + self.cache.num_idle

    @property
    def num_unused(self) -> int:
        """Free blocks that hold nothing."""
        return len(self._free)

    def refs(self, block: int) -> int:
        return self._refs[block]

    def generation(self, block: int) -> int:
        """How often the block has been allocated: tells its lives apart."""
        return self._generations[block]

    def allocate(self) -> int:
        """A block with one owner. The caller has checked `num_free`."""
        block = self._free.pop() if self._free else self.cache.evict()
        assert self._refs[block] == 0, f"block {block} was handed out while in use"
        self._refs[block] = 1
        self._generations[block] += 1
        return block

    def share(self, block: int) -> None:
        """One more owner, of a block in use or idle."""
        if self._refs[block] == 0:
            self.cache.use(block)
        self._refs[block] += 1

    def free(self, block: int) -> None:
        """One owner less. With the last one a cached block falls idle, any other is free."""
        refs = self._refs[block] - 1
        assert refs >= 0, f"block {block} was freed twice"
        self._refs[block] = refs
        if refs == 0 and not self.cache.fall_idle(block):
            self._free.append(block)

    def unpin(self, block: int) -> None:
        """A copy of a cached block has been made: one owner less, as `free`.

        When it falls idle, it is evicted before those that were not copied.
        """
        self._refs[block] -= 1
        if self._refs[block] == 0:
            self.cache.fall_idle(block, demoted=True)

    def free_all(self, blocks: Iterable[int]) -> None:
        """Free the blocks of a table, given in token order: the tail is evicted before the head."""
        for block in reversed(list(blocks)):
            self.free(block)

    def quarantine(self, block: int) -> None:
        """The only owner leaves, but the block must not be reused yet."""
        assert self._refs[block] == 1, f"block {block} cannot be quarantined while shared"
        assert not self.cache.holds(block), f"block {block} cannot be quarantined while cached"
        self._refs[block] = 0
        self.num_quarantined += 1

    def lift(self, block: int) -> None:
        """A quarantined block is free again."""
        assert self._refs[block] == 0 and not self.cache.holds(block)
        self.num_quarantined -= 1
        self._free.append(block)

    def cached(self, hashes: SequenceOf[bytes]) -> list[int]:
        """Blocks of the longest cached prefix of `hashes`."""
        blocks: list[int] = []
        get = self.cache.get
        for block_hash in hashes:
            block = get(block_hash)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def num_idle(self, blocks: Iterable[int]) -> int:
        """How many of these would no longer be free once shared."""
        refs = self._refs
        return sum(1 for block in blocks if refs[block] == 0)

    def check(self, owners: Counter[int], quarantined: SequenceOf[int]) -> None:
        """Assert that every block is in one state, and in use by just these owners."""
        free, idle = set(self._free), set(self.cache.idle_blocks())
        used, apart = set(owners), set(quarantined)
        assert len(free) == len(self._free), "a block is free twice"
        assert len(apart) == len(quarantined) == self.num_quarantined, "quarantine miscounted"
        assert len(free) + len(idle) + len(used) + len(apart) == self.size, "blocks leaked"
        assert free | idle | used | apart == set(range(self.size)), "a block is in two states"
        for block, count in owners.items():
            assert self._refs[block] == count, (
                f"block {block}: {self._refs[block]} refs, not {count}"
            )
        cached = self.cache.blocks()
        assert idle <= set(cached), "an idle block is not in the prefix cache"
        assert not (free | apart) & set(cached), "a free or quarantined block is still cached"
        for block, block_hash in cached.items():
            assert self.cache.get(block_hash) == block, "the prefix cache disagrees with itself"


class BlockManager:
    """The pools of all groups. Counts and tables are tuples with one item per group."""

    def __init__(self, groups: SequenceOf[GroupSpec], num_blocks: SequenceOf[int]) -> None:
        assert len(groups) == len(num_blocks) > 0
        self.pools = tuple(BlockPool(s, n) for s, n in zip(groups, num_blocks, strict=True))
        self.groups = tuple(groups)

    @property
    def num_free(self) -> int:
        """Free blocks of the group that has fewest."""
        return min(pool.num_free for pool in self.pools)

    @property
    def changed(self) -> bool:
        """Whether `take_changes` has anything to report."""
        return any(pool.cache.changed for pool in self.pools)

    def needed(self, num_tokens: int) -> tuple[int, ...]:
        """Blocks that hold `num_tokens` tokens."""
        return tuple(spec.num_blocks(num_tokens) for spec in self.groups)

    def ever_fits(self, num_tokens: int) -> bool:
        """Whether an empty pool could hold them."""
        needed = self.needed(num_tokens)
        return all(n <= pool.size for n, pool in zip(needed, self.pools, strict=True))

    def longest_prefix(
        self, hashes: SequenceOf[SequenceOf[bytes]], limit: int
    ) -> tuple[int, list[list[int]]]:
        """How many tokens, `limit` at most, all groups hold in cached blocks, and those blocks.

        Nothing is shared yet.
        """
        found = [pool.cached(h) for pool, h in zip(self.pools, hashes, strict=True)]
        length = self.common_length([len(blocks) for blocks in found], limit)
        sizes = [spec.block_size for spec in self.groups]
        return length, [b[: length // size] for b, size in zip(found, sizes, strict=True)]

    def common_length(self, num_blocks: SequenceOf[int], limit: int) -> int:
        """How many tokens, `limit` at most, just fill blocks of all groups, that many of each."""
        sizes = [spec.block_size for spec in self.groups]
        # Groups may have blocks of different sizes: shrink until the length suits every one.
        length, before = limit, -1
        while length != before:
            before = length
            for count, size in zip(num_blocks, sizes, strict=True):
                length = min(count * size, length // size * size)
        return length

    def fits(self, found: SequenceOf[SequenceOf[int]], num_tokens: int, headroom: int) -> bool:
        """Whether room for `num_tokens` tokens, `found` blocks of them cached, leaves headroom."""
        return all(
            spec.num_blocks(num_tokens) - len(blocks) + headroom
            <= pool.num_free - pool.num_idle(blocks)
            for spec, pool, blocks in zip(self.groups, self.pools, found, strict=True)
        )

    def allocate(self, seq: Sequence, found: SequenceOf[SequenceOf[int]], num_tokens: int) -> None:
        """Give a sequence without blocks the cached ones and new ones for the rest."""
        for table, pool, blocks in zip(seq.tables, self.pools, found, strict=True):
            for block in blocks:
                pool.share(block)
            num_new = pool.spec.num_blocks(num_tokens) - len(blocks)
            table.extend(blocks)
            table.extend([pool.allocate() for _ in range(num_new)])
        seq.tables_changed(self.groups)

    def can_grow(self, seq: Sequence) -> bool:
        """Whether `grow` would find its blocks."""
        return all(
            self._num_missing(seq, group) <= pool.num_free for group, pool in enumerate(self.pools)
        )

    def grow(self, seq: Sequence) -> None:
        """Make room for all tokens not computed yet: copy a shared tail, then allocate."""
        for group, (table, pool) in enumerate(zip(seq.tables, self.pools, strict=True)):
            size = pool.spec.block_size
            if self._shares_tail(seq, group):
                index = seq.num_computed // size
                src, dst = int(table.data[index]), pool.allocate()
                seq.copies.append(BlockCopy(group, src, dst))
                pool.free(src)
                table.data[index] = dst
            for _ in range(pool.spec.num_blocks(seq.num_tokens) - len(table)):
                table.append(pool.allocate())
        seq.tables_changed(self.groups)

    def share(self, seq: Sequence) -> None:
        """A fork of `seq` owns its blocks too. Both must copy a partial tail before they write."""
        for table, pool in zip(seq.tables, self.pools, strict=True):
            for block in table.tolist():
                pool.share(block)

    def free(self, seq: Sequence) -> None:
        """Take all blocks back; what is cached stays findable."""
        for table, pool in zip(seq.tables, self.pools, strict=True):
            pool.free_all(table.tolist())
            table.clear()
        seq.table_views = ()
        seq.writable = 0
        seq.copies.clear()

    def register(self, seq: Sequence) -> None:
        """Enter the sequence's newly computed full blocks into the prefix cache."""
        seq.extend_hashes(self.groups, seq.num_computed)
        for group, (table, pool) in enumerate(zip(seq.tables, self.pools, strict=True)):
            num_full = seq.num_computed // pool.spec.block_size
            for index in range(seq.num_registered[group], num_full):
                pool.cache.add(seq.hashes[group][index], int(table.data[index]))
            seq.num_registered[group] = num_full
        self.set_register_at(seq)

    def set_register_at(self, seq: Sequence) -> None:
        """Note when `register` is due next."""
        seq.register_at = min(
            (done + 1) * spec.block_size
            for done, spec in zip(seq.num_registered, self.groups, strict=True)
        )

    def take_changes(self) -> list[tuple[int, tuple[bytes, ...], tuple[bytes, ...]]]:
        """(group, stored, removed) of every group whose prefix cache changed."""
        return [
            (group, *pool.cache.take_changes())
            for group, pool in enumerate(self.pools)
            if pool.cache.changed
        ]

    def _shares_tail(self, seq: Sequence, group: int) -> bool:
        """Whether the next token goes into a block that another sequence reads."""
        pool = self.pools[group]
        index, slot = divmod(seq.num_computed, pool.spec.block_size)
        return slot != 0 and pool.refs(int(seq.tables[group].data[index])) > 1

    def _num_missing(self, seq: Sequence, group: int) -> int:
        needed = self.groups[group].num_blocks(seq.num_tokens) - len(seq.tables[group])
        return needed + self._shares_tail(seq, group)
