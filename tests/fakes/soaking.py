"""Soak: batches of handoffs between two NIXL processes, and what those hold meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fakes.relayed_pair import pair_of

BATCH = 100
# Clocks go on by this after each batch, so that ended handoffs are forgotten as an hour's would be.
STEP_S = 10.0
# What must not grow once things are warm.
COUNTED = ("threads", "fds", "nixl_handles", "remembered", "open", "early", "quarantined_blocks")
# But for so many: a pool starts its next thread when it is first busy enough. Whatever even one
# handoff in a hundred left behind would rise by more.
MAX_COUNT_GROWTH = 2

Sample = dict[str, Any]


async def soak(
    num_handoffs: int, sample_every: int, tell: Callable[[Sample], None] = lambda _: None
) -> list[Sample]:
    """Samples of both processes, one per `sample_every` handoffs; each handoff's KV is checked."""
    samples: list[Sample] = []
    began = time.monotonic()
    async with pair_of("nixl") as pair:
        target_ref = await pair.target.ask("ref")
        for first in range(0, num_handoffs, BATCH):
            numbers = list(range(first, first + BATCH))
            await pair.target.ask("start_targets", numbers, pair.source_ref)
            await pair.source.ask("start_sources", numbers, target_ref)
            await pair.source.ask("ready_all", numbers)
            for end, side in ((pair.source, "s"), (pair.target, "t")):
                outcomes = await end.ask("ended", side, first, BATCH)
                assert set(outcomes.values()) == {"ok"}, outcomes
                await end.ask("forget_all", side, numbers)
                await end.ask("advance", STEP_S)
            done = first + BATCH
            if done % sample_every == 0:
                sample = {"handoffs": done, "seconds": round(time.monotonic() - began, 1)}
                for name, end in (("source", pair.source), ("target", pair.target)):
                    sample[name] = await end.ask("sample")
                samples.append(sample)
                tell(sample)
        await pair.clean()
    return samples


def growth(samples: list[Sample], warm: float = 0.3) -> dict[str, dict[str, int]]:
    """Per process and count: the last third's highest less the highest of the first warm third.

    The first `warm` share of the samples is left out: caches fill, and the heap finds its size.
    """
    rest = samples[int(len(samples) * warm) :]
    third = max(1, len(rest) // 3)
    return {
        side: {
            name: max(s[side][name] for s in rest[-third:])
            - max(s[side][name] for s in rest[:third])
            for name in ("rss_bytes", *COUNTED)
        }
        for side in ("source", "target")
    }
