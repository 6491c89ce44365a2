"""Target side: blocks set aside for KV that other workers write, and their quarantine.

Reserved blocks are in use but not in the prefix cache: nothing can read them before `register`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baton.core.handoff import Key, ReservedGroup
from baton.core.request import Request
from baton.engine.block_manager import BlockManager


@dataclass(frozen=True, slots=True)
class Reservation:
    """Room for the KV of `num_tokens` tokens. `hashes[g]` are those of group g's full blocks.

    There is room for `growth_tokens` more, in blocks that have no hash yet. Without a request, it
    is for just the blocks with a hash.
    """

    request: Request | None
    num_tokens: int
    hashes: tuple[tuple[bytes, ...], ...]
    groups: tuple[ReservedGroup, ...]
    growth_tokens: int = 0

    @property
    def num_slots(self) -> int:
        return 0 if self.request is None else self.request.num_choices

    @property
    def owner(self) -> Request:
        """The request that goes on from the KV."""
        assert self.request is not None, "these blocks were fetched for no request in particular"
        return self.request

    @property
    def num_new(self) -> int:
        """Blocks to be written, in all groups."""
        return sum(len(group.block_ids) - len(group.skip) for group in self.groups)


class Reservations:
    """By key: what is reserved, and what is in quarantine."""

    def __init__(self, blocks: BlockManager) -> None:
        self._blocks = blocks
        self.open: dict[Key, Reservation] = {}
        # Key -> (group, block); a key's second handoff adds to the first's.
        self._quarantined: dict[Key, list[tuple[int, int]]] = {}

    @property
    def num_reserved(self) -> int:
        return sum(reservation.num_new for reservation in self.open.values())

    @property
    def num_quarantined(self) -> int:
        return sum(pool.num_quarantined for pool in self._blocks.pools)

    def reserve(
        self,
        key: Key,
        request: Request | None,
        num_tokens: int,
        hashes: tuple[tuple[bytes, ...], ...],
        headroom: int,
        growth_tokens: int = 0,
    ) -> tuple[ReservedGroup, ...] | None:
        """Take a block for each that is not cached; None when that leaves less than `headroom`."""
        assert key not in self.open, "a key has one reservation"
        blocks = self._blocks
        needed = blocks.needed(num_tokens + growth_tokens)
        if request is None:
            needed = tuple(map(len, hashes))
        found = [
            {i: block for i, h in enumerate(hs) if (block := pool.cache.get(h)) is not None}
            for pool, hs in zip(blocks.pools, hashes, strict=True)
        ]
        for pool, held, total in zip(blocks.pools, found, needed, strict=True):
            num_free = pool.num_free - pool.num_idle(held.values())
            if total - len(held) + headroom > num_free:
                return None
        groups = []
        for pool, held, total in zip(blocks.pools, found, needed, strict=True):
            # Share first, so that allocating cannot evict what is to be skipped.
            for block in held.values():
                pool.share(block)
            ids = tuple([held[i] if i in held else pool.allocate() for i in range(total)])
            generations = tuple([pool.generation(block) for block in ids])
            groups.append(ReservedGroup(ids, generations, frozenset(held)))
        reservation = Reservation(request, num_tokens, hashes, tuple(groups), growth_tokens)
        self.open[key] = reservation
        return reservation.groups

    def register(self, reservation: Reservation, hashes: Sequence[Sequence[bytes]]) -> None:
        """The blocks hold verified KV: those with a hash may be found by it from now on."""
        for pool, known, group in zip(self._blocks.pools, hashes, reservation.groups, strict=True):
            for block_hash, block in zip(known, group.block_ids, strict=False):
                pool.cache.add(block_hash, block)

    def close(self, reservation: Reservation) -> None:
        """The reservation's own hold on its blocks ends."""
        for pool, group in zip(self._blocks.pools, reservation.groups, strict=True):
            pool.free_all(group.block_ids)

    def quarantine(self, key: Key, reservation: Reservation) -> None:
        """As `close`, but blocks that a write may still reach are set aside."""
        apart = self._quarantined.setdefault(key, [])
        pools = zip(self._blocks.pools, reservation.groups, strict=True)
        for index, (pool, group) in enumerate(pools):
            pool.free_all(block for i, block in enumerate(group.block_ids) if i in group.skip)
            for i, block in enumerate(group.block_ids):
                if i not in group.skip:
                    pool.quarantine(block)
                    apart.append((index, block))

    def lift(self, key: Key) -> None:
        """No write can reach the key's blocks any more; unknown keys are ignored."""
        for group, block in self._quarantined.pop(key, ()):
            self._blocks.pools[group].lift(block)

    def quarantined(self, group: int) -> Sequence[int]:
        """Block ids, for integrity checks."""
        return [b for apart in self._quarantined.values() for g, b in apart if g == group]
