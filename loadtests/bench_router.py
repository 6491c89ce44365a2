"""What the router costs a prompt: hashing, the prefix index, the choice of a worker.

    make bench-router

Part `tokens`: prompts of 100,000 token ids, 80 % of them shared with others, block size 16, an
index of 10 million blocks: CPU per prompt, so cores at 100 prompts a second, and memory. Part
`text`: see bench_tokens_of_text. Part `decision`: one choice among 1,000 workers, in units of one
`weights @ columns` over all the columns that it reads. Parts `sharing` and `small`: see
bench_shared_index and bench_small_pool. Everything else runs in this process, with the gateway's
own code.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from bench_shared_index import bench_sharing
from bench_small_pool import bench_small_pool
from bench_tokens_of_text import bench_text
from measure import hardware, resident_bytes, save

from baton.core.gc_pauses import settle_gc
from baton.core.settings import RouterSettings
from baton.gateway.workers.prefix_lookup import HashScopes, PrefixLookup
from baton.gateway.workers.prompt_hashes import HashScope, PromptHashes
from baton.router.columns import Columns
from baton.router.policy.base import Policy, RequestView
from baton.router.policy.registry import policy_named
from baton.router.pool import Pool
from baton.router.prefix_index import IndexTier, PrefixIndex
from baton.router.selection import book, select
from baton.v1 import common_pb2, session_pb2

MODEL, DIGEST, BLOCK = "bench", "digest", 16
SCOPE = HashScope(DIGEST, BLOCK)
PROMPT_TOKENS, SHARED_TOKENS = 100_000, 80_000
PROMPTS_PER_S = 100
VOCABULARY = 150_000
# Prefixes that prompts share, each on so many workers.
FAMILIES, COPIES = 20, 4
HOLDERS = 100


def pool_of(count: int, rng: random.Random) -> Pool:
    """Workers of role any under various loads."""
    pool = Pool()
    for i in range(count):
        row = pool.add(
            common_pb2.WorkerLease(
                worker=common_pb2.WorkerRef(worker_id=f"worker-{i}", epoch=1, address="x"),
                role=common_pb2.WORKER_ROLE_ANY,
                model=MODEL,
                digest=DIGEST,
                capacity=common_pb2.Capacity(
                    num_blocks=200_000, block_size=BLOCK, max_sequences=256, max_batch_tokens=8192
                ),
            )
        )
        pool.set_up(row, True)
        pool.report(
            row,
            session_pb2.Load(
                sequence_number=1,
                num_running=rng.randrange(200),
                queue_room=64,
                queued_prefill_tokens=rng.randrange(20_000),
                free_blocks=rng.randrange(50_000, 200_000),
            ),
        )
    return pool


class Timer:
    """CPU milliseconds of this thread, by name."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        before = time.thread_time()
        result = work()
        self.spent.setdefault(name, []).append(1e3 * (time.thread_time() - before))
        return result

    def mean_ms(self) -> dict[str, float]:
        return {name: float(np.mean(times)) for name, times in self.spent.items()}


def fill(index: PrefixIndex, families: list[tuple[int, ...]], num_blocks: int) -> None:
    """Shared prefixes on some workers, and blocks of their own on all, in steps as events come."""
    rng = np.random.default_rng(1)
    for number, family in enumerate(families):
        keys = PromptHashes(family).keys(SCOPE)
        for copy in range(COPIES):
            index.store((COPIES * number + copy) % HOLDERS, IndexTier.DEVICE, keys)
    step = 1000
    while index.num_blocks < num_blocks:
        for row in range(HOLDERS):
            index.store(row, IndexTier.DEVICE, rng.integers(1, 2**64, step, np.uint64))


def bench_tokens(options: argparse.Namespace) -> dict[str, Any]:
    """Token ids in, a worker out."""
    rng = random.Random(2)
    ids = np.random.default_rng(3)
    families = [tuple(ids.integers(0, VOCABULARY, SHARED_TOKENS).tolist()) for _ in range(FAMILIES)]
    pool = pool_of(HOLDERS, rng)
    policy = policy_named(options.policy, RouterSettings())
    baseline = resident_bytes(os.getpid())
    index = PrefixIndex()
    fill(index, families, options.blocks)
    memory = resident_bytes(os.getpid()) - baseline
    scopes = HashScopes()
    for row in range(HOLDERS):
        scopes.add(row, MODEL, SCOPE)
    now = 0.0
    lookup = PrefixLookup(index, scopes, pool, lambda: now)
    timer = Timer()
    hits = 0
    for number in range(options.prompts):
        now += 1 / PROMPTS_PER_S
        rest = ids.integers(0, VOCABULARY, PROMPT_TOKENS - SHARED_TOKENS).tolist()
        prompt = (*families[number % FAMILIES], *rest)
        hashes = PromptHashes(prompt)
        keys = timer("hash", partial(hashes.keys, SCOPE))
        overlap = timer("lookup", partial(lookup.overlap, MODEL, hashes))
        assert overlap is not None
        view = RequestView(MODEL, len(prompt), overlap=overlap)
        chosen = timer("decide", partial(select, view, pool, policy, rng))
        assert chosen is not None
        timer("predict", partial(lookup.placed, chosen.decode, hashes))
        _, booking = book(view, pool, chosen)
        pool.end(booking)
        hits += overlap.device[chosen.decode] >= SHARED_TOKENS // BLOCK
        # What the worker will say of it, and of as many blocks that have to go.
        new = keys[SHARED_TOKENS // BLOCK :]
        gone = ids.integers(1, 2**64, len(new), np.uint64)
        index.store(chosen.decode, IndexTier.DEVICE, gone)

        def events(row: int = chosen.decode, new: Any = new, gone: Any = gone) -> None:
            index.store(row, IndexTier.DEVICE, new)
            index.remove(row, IndexTier.DEVICE, gone)

        timer("events", events)
    mean = timer.mean_ms()
    cores = sum(mean.values()) * PROMPTS_PER_S / 1e3
    print(f"{PROMPT_TOKENS} token ids, {SHARED_TOKENS} shared, policy {policy.name}, CPU-ms each:")
    print("  " + ", ".join(f"{name} {ms:.2f}" for name, ms in mean.items()))
    print(f"  {cores:.2f} cores at {PROMPTS_PER_S} prompts/s (at most 1)")
    print(f"  {memory / 1e9:.2f} GB for {index.num_blocks / 1e6:.1f} M blocks (below 2)")
    print(f"  {hits / options.prompts:.0%} went to a worker that holds the shared part")
    return {
        "cpu_ms_per_prompt": {name: round(ms, 3) for name, ms in mean.items()},
        "cores_at_100_prompts_per_s": round(cores, 3),
        "index_bytes": memory,
        "indexed_blocks": index.num_blocks,
    }


class Reads:
    """Stands for Columns, and notes which are read."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self.names: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._columns, name)
        if isinstance(value, np.ndarray):
            self.names.add(name)
        return value


class Watched:
    """Stands for a Pool whose columns are these."""

    def __init__(self, pool: Pool, columns: Reads) -> None:
        self._pool = pool
        self.columns = columns

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


def columns_read(view: RequestView, pool: Pool, policy: Policy) -> list[str]:
    """Names of the columns that a choice looks at."""
    # The candidates are kept between choices.
    pool.groups(MODEL)
    reads = Reads(pool.columns)
    select(view, cast(Any, Watched(pool, reads)), policy, random.Random(1))
    return sorted(reads.names)


def num_preempted() -> int:
    """How often the kernel has taken the core from this thread."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def bench_decision(options: argparse.Namespace) -> dict[str, Any]:
    """One choice among many workers, prefix matches known."""
    count, rng = options.workers, random.Random(4)
    pool = pool_of(count, rng)
    policy = policy_named(options.policy, RouterSettings())
    index = PrefixIndex()
    keys = np.random.default_rng(5).integers(1, 2**64, 500, np.uint64)
    for row in range(0, count, 3):
        index.store(row, IndexTier.DEVICE, keys[: rng.randrange(1, 500)])
    view = RequestView(MODEL, 10_000, overlap=index.match(keys, 0.0, len(pool.columns)))
    names = columns_read(view, pool, policy)
    columns = [getattr(pool.columns, name)[:count] for name in names]
    # Matches are columns as well.
    assert view.overlap is not None
    tiers = {tier: getattr(view.overlap, tier) for tier in ("device", "host", "disk")}
    names += tiers
    matrix = np.stack([column[:count].astype(float) for column in (*columns, *tiers.values())])
    weights = np.ones(len(names))
    units, decisions, calm, upkeep = [], [], [], []
    for number in range(options.decisions + 100):
        start = time.perf_counter()
        weights @ matrix
        end = time.perf_counter()
        # CPU time, since the machine's other work would show in the 99th percentile. It still shows
        # a little where that has had the core meanwhile, and left the caches cold.
        preempted = num_preempted()
        before = time.thread_time()
        chosen = select(view, pool, policy, rng)
        after = time.thread_time()
        is_calm = preempted == num_preempted()
        assert chosen is not None
        # The next one finds another state.
        _, booking = book(view, pool, chosen)
        if number % 3 == 0:
            pool.end(booking)
        elif number % 50 == 0:
            pool.columns.unreported[:] = 0
        # What follows from a booking is worked out when it is asked for: not a part of the choice.
        booked = time.thread_time()
        _ = pool.columns
        derived = time.thread_time()
        if number >= 100:
            upkeep.append(derived - booked)
            units.append(end - start)
            decisions.append(after - before)
            if is_calm:
                calm.append(after - before)
    unit = float(np.median(units))
    p50, p99 = (float(np.percentile(decisions, p)) / unit for p in (50, 99))
    p99_calm = float(np.percentile(calm, 99)) / unit
    upkeep_us = 1e6 * float(np.median(upkeep))
    print(
        f"a choice among {count} workers, policy {policy.name}, which reads {len(names)} columns:"
    )
    print(f"  weights @ columns takes {1e6 * unit:.1f} us")
    print(f"  p50 {p50:.1f} x (at most 10), p99 {p99:.1f} x (at most 40)")
    num_preempted_ones = len(decisions) - len(calm)
    print(
        f"  {num_preempted_ones} of {len(decisions)} lost the core; p99 {p99_calm:.1f} x "
        f"without them"
    )
    print(f"  and {upkeep_us:.1f} us for what changes in the columns with a booking")
    return {
        "policy": policy.name,
        "columns": names,
        "matvec_us": round(1e6 * unit, 2),
        "decision_p50_us": round(1e6 * p50 * unit, 1),
        "decision_p50_x": round(p50, 2),
        "decision_p99_x": round(p99, 2),
        "decision_p99_x_without_preempted": round(p99_calm, 2),
        "num_preempted": num_preempted_ones,
        "upkeep_us": round(upkeep_us, 2),
    }


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "tokens": bench_tokens,
    "text": lambda _: bench_text(),
    "decision": bench_decision,
    "small": lambda options: bench_small_pool(options.policy, options.decisions),
    "sharing": bench_sharing,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=list(PARTS), action="append", help="by default all")
    parser.add_argument("--policy", default="kv_aware")
    parser.add_argument("--blocks", type=int, default=10_000_000, help="in the index")
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--workers", type=int, default=1000, help="to choose from")
    parser.add_argument("--decisions", type=int, default=5000)
    parser.add_argument("--save", action="store_true", help="write results/bench-router.json")
    options = parser.parse_args()
    print(hardware())
    # As a gateway does.
    settle_gc()
    figures = {part: PARTS[part](options) for part in options.part or PARTS}
    if options.save:
        print("saved", save("bench-router", figures).relative_to(Path.cwd()))


if __name__ == "__main__":
    main()
