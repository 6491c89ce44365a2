"""The prefix index of a small fleet: what `router.prefix_index` answers, without its arrays.

For millions of blocks the router works on whole arrays of keys. A replay asks tens of thousands of
times about a few dozen blocks of eight workers: there a dictionary and numbers as sets of bits take
a tenth of the time. Tests hold the two to the same answers, predictions included.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np

from baton.router.prefix_index import NUM_SPANS, PREDICTED_TTL_S, Overlap

# Bits of a worker in a block's holders: it has the block on its device, and it is predicted to, in
# one of `NUM_SPANS` spans of time.
_ROW_BITS = 8
_DEVICE = 1


class SmallIndex:
    """Of blocks on devices, by their hashes; `num_rows` workers."""

    def __init__(self, num_rows: int, predicted_ttl_s: float = PREDICTED_TTL_S) -> None:
        self._num_rows = num_rows
        self._lowest_bits = sum(1 << row * _ROW_BITS for row in range(num_rows))
        self._ttl_s = predicted_ttl_s
        self._span_s = predicted_ttl_s / (NUM_SPANS - 1)
        # By hash, the bits of all workers; never 0.
        self._holders: dict[bytes, int] = {}
        # (when it expires, bit, hashes), oldest first.
        self._predicted: deque[tuple[float, int, list[bytes]]] = deque()
        # What nobody has on other tiers.
        self._none = np.zeros(num_rows, np.int64)

    def store(self, row: int, hashes: Iterable[bytes]) -> None:
        """A worker has these blocks."""
        holders, bit = self._holders, _DEVICE << row * _ROW_BITS
        get = holders.get
        for block in hashes:
            holders[block] = get(block, 0) | bit

    def remove(self, row: int, hashes: Iterable[bytes]) -> None:
        """A worker no longer has these blocks. Those it never had are ignored."""
        self._take(hashes, _DEVICE << row * _ROW_BITS)

    def predict(self, row: int, hashes: Iterable[bytes], now: float) -> None:
        """A worker was just given a prompt: it will soon have these blocks."""
        self._expire(now)
        holders = self._holders
        get = holders.get
        has_it = _DEVICE << row * _ROW_BITS
        bit = has_it << 1 + int(now / self._span_s) % NUM_SPANS
        new = [block for block in hashes if not get(block, 0) & has_it]
        if new:
            for block in new:
                holders[block] = get(block, 0) | bit
            self._predicted.append((now + self._ttl_s, bit, new))

    def match(self, hashes: Sequence[bytes], now: float) -> Overlap:
        """Who holds how much of a prompt, whose hashes are given from its start on."""
        self._expire(now)
        get = self._holders.get
        counts = [0] * self._num_rows
        # Lowest bits of the workers that have all blocks so far.
        unbroken, seen = self._lowest_bits, -1
        for length, block in enumerate(hashes):
            holders = get(block, 0)
            if holders == seen:
                continue
            seen, before = holders, unbroken
            # Any bit of a worker sets its lowest one.
            holders |= holders >> 4
            holders |= holders >> 2
            holders |= holders >> 1
            unbroken &= holders
            if unbroken != before:
                self._count(counts, before ^ unbroken, length)
                if not unbroken:
                    break
        self._count(counts, unbroken, len(hashes))
        return Overlap(np.array(counts, np.int64), self._none, self._none, max(counts))

    def _count(self, counts: list[int], rows: int, length: int) -> None:
        """Workers whose prefix ends here."""
        while rows:
            row = (rows & -rows).bit_length() // _ROW_BITS
            counts[row] = length
            rows &= rows - 1

    def _expire(self, now: float) -> None:
        while self._predicted and self._predicted[0][0] <= now:
            _, bit, hashes = self._predicted.popleft()
            self._take(hashes, bit)

    def _take(self, hashes: Iterable[bytes], bit: int) -> None:
        holders = self._holders
        get = holders.get
        for block in hashes:
            held = get(block, 0)
            if held & bit:
                if held == bit:
                    del holders[block]
                else:
                    holders[block] = held ^ bit
