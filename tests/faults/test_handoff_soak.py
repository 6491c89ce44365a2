"""Fifteen hundred handoffs leave nothing behind; `make soak-handoffs` runs fifty thousand."""

from __future__ import annotations

from fakes.soaking import COUNTED, MAX_COUNT_GROWTH, growth, soak

MAX_RSS_GROWTH = 32 * 2**20


async def test_counts_stay_flat() -> None:
    samples = await soak(1500, sample_every=100)
    for side, counts in growth(samples, warm=0.5).items():
        grown = {name: counts[name] for name in COUNTED if counts[name] > MAX_COUNT_GROWTH}
        assert not grown, f"{side}: {samples}"
        assert counts["rss_bytes"] < MAX_RSS_GROWTH
        last = samples[-1][side]
        assert last["free_blocks"] == 512
        assert last["open"] == last["early"] == last["quarantined_blocks"] == 0
