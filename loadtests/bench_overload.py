"""What a gateway does with three times the load that its workers can take.

    make bench-overload

Goodput: answers within the deadline per second, at 1x and 3x of the capacity, and at 3x without
early rejection. Fairness: two tenants, one of which asks ten times as much as the other. A real
gateway with keys, real HTTP, mock workers of modest rates; requests arrive at random instants, from
a fixed seed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from client import chat
from gateway import gateway, mock_workers
from measure import hardware, save

from baton.core.api_key import Scope
from baton.gateway.keys.admin import create_key
from baton.gateway.keys.stored import KeyLimits
from baton.store.connect import connect

WORKERS = 2
SLOTS = 8
STEP_MS = 100.0
ANSWER_TOKENS = 20
PROMPT_WORDS = 20
# Slots over the time that an answer holds one (its tokens; the prompt's step comes before).
CAPACITY = WORKERS * SLOTS / ((ANSWER_TOKENS + 1) * STEP_MS / 1000)
DEADLINE_S = 6.0
WARM_S = 5.0
TENANTS = ("flood", "light")


@dataclass
class KeyedGateway:
    """A running one, and a key for each tenant."""

    url: str
    keys: dict[str, str]


@dataclass
class Load:
    """What came of a load. Times in seconds; `good` ended within the deadline."""

    offered: int = 0
    good: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    answer_s: list[float] = field(default_factory=list)
    rejection_s: list[float] = field(default_factory=list)


@contextlib.contextmanager
def deployment(**settings: str) -> Iterator[KeyedGateway]:
    """A gateway with these settings, its workers, and keys."""
    engine = {"step_ms": STEP_MS, "max_sequences": SLOTS}
    with gateway(GATEWAY__AUTH="keys", **settings) as front:
        keys = asyncio.run(make_keys(front.store, front.token))
        headers = {"authorization": f"Bearer {keys[TENANTS[0]]}"}
        with mock_workers(front, {"any": WORKERS}, headers, **engine):
            yield KeyedGateway(front.url, keys)


async def make_keys(store_url: str, token: str) -> dict[str, str]:
    """A key for each tenant."""
    store = await connect(store_url, token, "baton")
    try:
        return {
            tenant: (
                await create_key(
                    store,
                    name="bench",
                    tenant=tenant,
                    scopes=frozenset(Scope),
                    limits=KeyLimits(),
                    expires=None,
                    created_by="bench",
                )
            )[0]
            for tenant in TENANTS
        }
    finally:
        await store.close()


async def ask(front: KeyedGateway, tenant: str, load: Load) -> None:
    """One request on a connection of its own; counted once it is answered."""
    address = urlsplit(front.url)
    raw = json.dumps(chat(PROMPT_WORDS, ANSWER_TOKENS, streamed=False)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {front.keys[tenant]}\r\nx-request-timeout: {DEADLINE_S}\r\n"
        f"connection: close\r\ncontent-length: {len(raw)}\r\n\r\n"
    )
    began = time.monotonic()
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(head.encode() + raw)
        answer = await reader.read()
    finally:
        writer.close()
    took = time.monotonic() - began
    status = int(answer.split(b" ", 2)[1])
    load.statuses[status] += 1
    if status == 200:
        load.answer_s.append(took)
        load.good += took <= DEADLINE_S
    else:
        load.rejection_s.append(took)


async def offer(
    front: KeyedGateway, rates: dict[str, float], warm_s: float, window_s: float
) -> dict[str, Load]:
    """Requests of each tenant at random instants, so many per second; those of the window count."""
    loads = {tenant: Load() for tenant in rates}
    rng = random.Random(1)
    arrivals: list[tuple[float, str, Load]] = []
    for tenant, rate in rates.items():
        for begin_s, length_s, load in ((0, warm_s, Load()), (warm_s, window_s, loads[tenant])):
            # A Poisson process with the number of its arrivals given.
            for _ in range(round(rate * length_s)):
                arrivals.append((begin_s + rng.uniform(0, length_s), tenant, load))
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for at, tenant, load in sorted(arrivals, key=lambda arrival: arrival[0]):
            await asyncio.sleep(began + at - time.monotonic())
            load.offered += 1
            group.create_task(ask(front, tenant, load))
    return loads


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[int(q * (len(ordered) - 1))] if ordered else 0.0


def goodput(front: KeyedGateway, label: str, factor: float, window_s: float) -> float:
    """Offer so many times the capacity, print a row, and return answers in time per second."""
    tenant = TENANTS[0]
    load = asyncio.run(offer(front, {tenant: factor * CAPACITY}, WARM_S, window_s))[tenant]
    found = load.good / window_s
    rejected = sum(count for status, count in load.statuses.items() if status != 200)
    print(
        f"{label:28} {load.offered / window_s:8.1f} {found:9.2f}"
        f" {quantile(load.answer_s, 0.5):8.2f} {quantile(load.answer_s, 0.99):8.2f}"
        f" {rejected / load.offered:9.0%}"
        f" {quantile(load.rejection_s, 0.5):12.3f}   {dict(sorted(load.statuses.items()))}"
    )
    return found


def fairness(front: KeyedGateway, window_s: float) -> dict[str, float]:
    """Answers in time per second of each tenant, when one floods."""
    # Light asks for less than half of the capacity, so all of it is its fair share.
    light = 0.25 * CAPACITY
    loads = asyncio.run(offer(front, {"flood": 10 * light, "light": light}, WARM_S, window_s))
    print(f"{'two tenants':12} {'asked/s':>8} {'good/s':>8} {'answered':>9} {'p50 s':>7}")
    for tenant, load in loads.items():
        print(
            f"{tenant:12} {load.offered / window_s:8.1f} {load.good / window_s:8.2f}"
            f" {load.good / load.offered:9.0%} {quantile(load.answer_s, 0.5):7.2f}"
        )
    return {
        f"{tenant}_{what}": round(value, 3)
        for tenant, load in loads.items()
        for what, value in (
            ("good_per_s", load.good / window_s),
            ("share_answered", load.good / load.offered),
        )
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="what each load is counted for")
    parser.add_argument("--save", action="store_true", help="write results/bench-overload.json")
    options = parser.parse_args()
    print(
        f"{hardware()}; {WORKERS} mock workers of {SLOTS} slots, {ANSWER_TOKENS} tokens of "
        f"{STEP_MS:g} ms: {CAPACITY:.1f} answers/s; deadline {DEADLINE_S:g} s"
    )
    print(
        f"{'load':28} {'asked/s':>8} {'in time/s':>9} {'p50 s':>8} {'p99 s':>8} {'refused':>9}"
        f" {'refused in s':>12}   statuses"
    )
    with deployment(GATEWAY__EARLY_REJECTION="false") as front:
        late = goodput(front, "3x, no early rejection", 3.0, options.seconds / 2)
    with deployment() as front:
        once = goodput(front, "1x", 1.0, options.seconds)
        thrice = goodput(front, "3x", 3.0, options.seconds)
        shares = fairness(front, options.seconds)
    print(f"goodput at 3x is {thrice / once:.1%} of that at 1x (goal: 95 %)")
    figures: dict[str, Any] = {
        "capacity_per_s": round(CAPACITY, 2),
        "goodput_1x_per_s": round(once, 2),
        "goodput_3x_per_s": round(thrice, 2),
        "goodput_3x_without_early_rejection_per_s": round(late, 2),
        "goodput_3x_over_1x": round(thrice / once, 3),
        **shares,
    }
    if options.save:
        print("saved", save("bench-overload", figures).relative_to(Path.cwd()))


if __name__ == "__main__":
    main()
