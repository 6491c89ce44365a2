"""Handoffs with bad references and flipped bits over real NIXL: all detected, none served.

`make fuzz-handoffs` runs ten thousand.
"""

from __future__ import annotations

from fakes.bad_references import injections
from fakes.fuzzing import fuzz

SEED = 1
NUM_HANDOFFS = 300


async def test_nothing_that_is_wrong_is_served() -> None:
    tally = await fuzz(NUM_HANDOFFS, SEED)
    print(f"seed {SEED}\n{tally.table()}")
    assert tally.served == 0
    assert tally.injected >= NUM_HANDOFFS and len(tally.counts) == len(injections())
