"""Conversations whose KV is kept for a time. Pure: no torch, no clock.

A pin holds no block: the pool hands out pinned blocks last, so a pin takes nothing from sequences
that run or wait. It names the KV by hash: what left the device meanwhile is pinned again when it
comes back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf

from baton.engine.block_manager import BlockManager
from baton.engine.prefix_cache import PrefixCache
from baton.engine.sequence import Sequence


class Pins:
    """Pins in all groups. Instants are those of the engine's clock."""

    def __init__(self, blocks: BlockManager, max_share: float) -> None:
        """At most `max_share` of each pool's blocks are pinned."""
        self._groups = [_GroupPins(pool.cache, int(max_share * pool.size)) for pool in blocks.pools]

    def keep(self, seq: Sequence, now: float) -> None:
        """A sequence ends: pin its full blocks if its request wants that. It has them still."""
        ttl_s = seq.submission.request.cache_ttl_s
        if ttl_s <= 0:
            return
        for group, hashes in enumerate(seq.hashes):
            self.pin(group, hashes[: seq.num_registered[group]], now + ttl_s)

    def pin(self, group: int, hashes: Iterable[bytes], until: float) -> None:
        """Keep the blocks of a prefix, given in token order. A longer pin of a block stays."""
        self._groups[group].pin(hashes, until)

    def expire(self, now: float) -> None:
        """Let go of what has been kept long enough."""
        for group in self._groups:
            group.expire(now)

    def next_expiry(self) -> float | None:
        """When `expire` has something to look at."""
        return min((group.timers[0][0] for group in self._groups if group.timers), default=None)

    def num_kept(self, group: int) -> int:
        """Pinned hashes, with a block here or without."""
        return len(self._groups[group].until)

    def check(self) -> None:
        """Assert that caches keep what is pinned, and no more of it than allowed."""
        for group in self._groups:
            group.check()


class _GroupPins:
    """One group's. `until`: when each pinned hash is free to go, those pinned longest ago first."""

    def __init__(self, cache: PrefixCache, max_pinned: int) -> None:
        self._cache = cache
        self._max_pinned = max_pinned
        self.until: OrderedDict[bytes, float] = OrderedDict()
        # (instant, order, hash), a heap: one for each pinned hash, never later than its end, the
        # instant of which is in `_timed`; and some that mean nothing any more.
        self.timers: list[tuple[float, int, bytes]] = []
        self._timed: dict[bytes, float] = {}
        self._order = count()

    def pin(self, hashes: Iterable[bytes], until: float) -> None:
        # Tail first: it gives way before the head, without which it would be of no use.
        for block_hash in reversed(list(hashes)):
            if block_hash not in self.until:
                self._cache.pin(block_hash)
            self.until[block_hash] = max(until, self.until.get(block_hash, until))
            self.until.move_to_end(block_hash)
            if until < self._timed.get(block_hash, inf):
                self._time(block_hash, until)
        while len(self.until) > self._max_pinned:
            block_hash, _ = self.until.popitem(last=False)
            self._cache.unpin(block_hash)
        if len(self.timers) > 2 * self._max_pinned:
            self._timed = dict(self.until)
            self.timers = [(end, next(self._order), h) for h, end in self.until.items()]
            heapify(self.timers)

    def expire(self, now: float) -> None:
        while self.timers and self.timers[0][0] <= now:
            at, _, block_hash = heappop(self.timers)
            if self._timed.get(block_hash) != at:
                continue
            until = self.until.get(block_hash, now)
            if until > now:
                self._time(block_hash, until)
                continue
            del self._timed[block_hash]
            if self.until.pop(block_hash, None) is not None:
                self._cache.unpin(block_hash)

    def check(self) -> None:
        assert len(self.until) <= self._max_pinned, "more is pinned than may be"
        timers = {(block_hash, at) for at, _, block_hash in self.timers}
        assert set(self._timed.items()) <= timers, "a timer is lost"
        for block_hash, until in self.until.items():
            assert self._timed[block_hash] <= until, "a pin is too long"
        self._cache.check_pins(set(self.until))

    def _time(self, block_hash: bytes, at: float) -> None:
        self._timed[block_hash] = at
        heappush(self.timers, (at, next(self._order), block_hash))
