"""Integrity fuzz: handoffs between two NIXL processes, most of them with something wrong."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from fakes.bad_references import ALWAYS, Injection, injections
from fakes.handoff_ends import BLOCKS, handoff_id
from fakes.message_relay import Fault
from fakes.relayed_pair import Pair, pair_of

BATCH = 40
# Of each batch, handoffs with which nothing is wrong.
UNHARMED = 4
# Longer than what any side waits for an answer, shorter than it is patient with a silent one.
STEP_S = 21.0


@dataclass
class Tally:
    """Per injection: how many, and what came of them."""

    seed: int
    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    unharmed: int = 0

    @property
    def injected(self) -> int:
        return sum(count["injected"] for count in self.counts.values())

    @property
    def served(self) -> int:
        """Handoffs that went on from KV or a token that was not theirs."""
        return sum(count["served"] for count in self.counts.values())

    def table(self) -> str:
        columns = ("injected", "refused", "recovered", "served")
        width = max(map(len, self.counts))
        lines = [f"{'':{width}}" + "".join(f"{c:>11}" for c in columns)]
        for name, count in self.counts.items():
            lines.append(f"{name:{width}}" + "".join(f"{count[c]:>11}" for c in columns))
        return "\n".join(lines)


async def fuzz(num_handoffs: int, seed: int) -> Tally:
    """At least `num_handoffs` with an injection, in batches."""
    rng = random.Random(seed)
    tally = Tally(seed)
    kinds = injections()
    first = 1
    turn = 0
    async with pair_of("nixl") as pair:
        while tally.injected < num_handoffs:
            chosen = [kinds[(turn + i) % len(kinds)] for i in range(BATCH - UNHARMED)]
            turn += len(chosen)
            await _batch(pair, tally, first, chosen, rng)
            first += BATCH
        if not tally.served:
            await pair.clean()
    return tally


async def _batch(
    pair: Pair, tally: Tally, first: int, chosen: list[Injection], rng: random.Random
) -> None:
    wrong = dict(enumerate(chosen, first))
    numbers = range(first, first + BATCH)
    faults: dict[int, Fault] = {}
    for number, injection in wrong.items():
        if not injection.memory:
            count = ALWAYS if injection.sealed else 1
            edit = injection.edit(rng)
            fault = Fault(injection.kind, "edit", handoff_id(number), count, edit)
            faults[number] = pair.relay.add(fault)
    await pair.target.ask("start_targets", list(numbers), pair.source_ref)
    await pair.source.ask("start_sources", list(numbers), pair.target_ref)
    flipped = [number for number, injection in wrong.items() if injection.memory]
    for number in numbers:
        if number not in flipped:
            await pair.source.ask("ready", number, 0, BLOCKS)
    for number in flipped:
        await pair.source.ask("ready", number, 0, BLOCKS - 1)
        await pair.until(pair.target, "landed", number, BLOCKS - 1)
        byte = rng.randrange(await pair.target.ask("block_bytes"))
        index = rng.randrange(BLOCKS - 1)
        await pair.target.ask("flip", "t", number, index, byte, rng.randrange(8))
        await pair.source.ask("ready", number, BLOCKS - 1, BLOCKS)
    # Those that nothing is wrong with are through before anybody's patience ends.
    for number in numbers:
        if number not in wrong:
            for end, side in ((pair.source, "s"), (pair.target, "t")):
                assert (await end.ask("ended", side, number, 1)) == {number: "ok"}
    while not all(
        [
            await pair.source.ask("all_ended", "s", list(numbers)),
            await pair.target.ask("all_ended", "t", list(numbers)),
        ]
    ):
        await asyncio.sleep(0.01)
        await pair.source.ask("advance", STEP_S)
        await pair.target.ask("advance", STEP_S)
    pair.relay.clear()
    judged = await pair.target.ask("judge", list(numbers))
    await pair.source.ask("forget_all", "s", list(numbers))
    for number, verdict in judged.items():
        if number not in wrong:
            assert verdict == "recovered", f"an unharmed handoff: {verdict}"
            tally.unharmed += 1
            continue
        assert wrong[number].memory or faults[number].hits, "nothing was injected"
        counts = tally.counts[wrong[number].name]
        counts["injected"] += 1
        counts[verdict] += 1
