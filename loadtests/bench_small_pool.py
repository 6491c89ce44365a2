"""What it costs to place one short request on few workers.

A part of bench_router. With three workers the price is that of calls, not of numbers: so it is
given in microseconds, for everything that the gateway's placer asks of the router, in its order. A
request is looked up, placed and booked, begins, and ends when `UNDER_WAY` later ones have come;
each worker reports once in so many requests.
"""

from __future__ import annotations

import random
import time
from collections import deque
from typing import Any

from baton.core.settings import RouterSettings
from baton.gateway.workers.prefix_lookup import HashScopes, PrefixLookup
from baton.gateway.workers.prompt_hashes import HashScope, PromptHashes
from baton.planner.output_length import OutputLengths
from baton.router.choice import Choice
from baton.router.policy.base import RequestView
from baton.router.policy.registry import policy_named
from baton.router.pool import Booking, Pool
from baton.router.prefix_index import PrefixIndex
from baton.router.selection import book, select
from baton.v1 import common_pb2, session_pb2

MODEL, DIGEST, BLOCK = "bench", "digest", 16
SCOPE = HashScope(DIGEST, BLOCK)
PREFILL, DECODE = common_pb2.WORKER_ROLE_PREFILL, common_pb2.WORKER_ROLE_DECODE
ROLES = (PREFILL, DECODE, DECODE)
PROMPT_TOKENS = 48
UNDER_WAY = 32
# 1,000 requests/s, and three workers that report each 48 ms.
REQUESTS_PER_S = 1000
REPORT_EVERY = 16
# Reports differ in what changes from one to the next.
NUM_REPORTS = 63
WARM_UP, ROUNDS = 500, 3


def pool_of_three() -> Pool:
    """One prefills, two decode; all have been measured."""
    pool = Pool()
    group = common_pb2.GroupSpec(
        num_layers=8, num_kv_heads=4, k_dim=64, v_dim=64, block_size=BLOCK, dtype="bfloat16"
    )
    capacity = common_pb2.Capacity(
        num_blocks=20_000, block_size=BLOCK, max_sequences=256, max_batch_tokens=8192
    )
    for number, role in enumerate(ROLES):
        worker = common_pb2.WorkerRef(worker_id=f"worker-{number}", epoch=1, address="x")
        row = pool.add(
            common_pb2.WorkerLease(
                worker=worker,
                role=role,
                model=MODEL,
                digest=DIGEST,
                groups=[group],
                capacity=capacity,
            )
        )
        pool.set_up(row, True)
        pool.report(row, load(number))
    return pool


def load(number: int) -> session_pb2.Load:
    return session_pb2.Load(
        num_running=number % 7,
        queue_room=64,
        queued_prefill_tokens=number % 9 * 100,
        free_blocks=19_000 - number % 7 * 50,
        prefill_tokens_per_s=20_000,
        prefill_step_s=0.02,
        step_s=0.01,
    )


class Steps:
    """CPU nanoseconds of this thread, by name of a step; without `notes`, of all together."""

    def __init__(self, *, notes: bool) -> None:
        self.spent: dict[str, int] = {}
        self._notes = notes
        self._since = 0

    def begin(self) -> None:
        if self._notes:
            self._since = time.thread_time_ns()

    def done(self, name: str) -> None:
        """What was done since the step before, or the beginning."""
        if self._notes:
            now = time.thread_time_ns()
            self.spent[name] = self.spent.get(name, 0) + now - self._since
            # Noting it is nobody's work.
            self._since = time.thread_time_ns()


def place_many(policy_name: str, num_requests: int, steps: Steps) -> float:
    """Place so many requests as a gateway does; CPU seconds for all."""
    rng, pool, scopes, lengths = random.Random(1), pool_of_three(), HashScopes(), OutputLengths()
    for row in range(len(ROLES)):
        scopes.add(row, MODEL, SCOPE)
    lengths.ended(MODEL, "", 8)
    now = 0.0
    lookup = PrefixLookup(PrefixIndex(), scopes, pool, lambda: now)
    policy = policy_named(policy_name, RouterSettings())
    under_way: deque[Booking] = deque()
    reports = [load(number) for number in range(NUM_REPORTS)]
    # As a tokenizer has just made them: no two alike, and in the processor's caches.
    rest = tuple(range(1000, 1000 + PROMPT_TOKENS - 1))
    began_at = time.thread_time()
    for number in range(num_requests):
        now += 1 / REQUESTS_PER_S
        prompt = (number, *rest)
        steps.begin()
        assert pool.has_room(MODEL)
        steps.done("columns")
        hashes = PromptHashes(prompt)
        overlap = lookup.overlap(MODEL, hashes)
        steps.done("overlap")
        expected = lengths.predict(MODEL, "", 64)
        view = RequestView(MODEL, PROMPT_TOKENS, overlap=overlap, expected_output=expected)
        selection = select(view, pool, policy, rng)
        assert selection is not None
        steps.done("choose")
        Choice(view, pool, policy, selection)
        steps.done("record")
        bookings = [one for one in book(view, pool, selection) if one is not None]
        steps.done("book")
        for booking in bookings:
            booking.slot = number + 1
            lookup.placed(booking.row, hashes)
        steps.done("predict")
        for booking in bookings:
            pool.begin(booking)
        under_way += bookings
        while len(under_way) > UNDER_WAY:
            pool.end(under_way.popleft())
        steps.done("begin, end")
        if number % REPORT_EVERY == 0:
            report = reports[number // REPORT_EVERY % NUM_REPORTS]
            report.newest_slot = number
            pool.report(number // REPORT_EVERY % len(ROLES), report)
            steps.done("report")
    return time.thread_time() - began_at


def bench_small_pool(policy_name: str, num_requests: int) -> dict[str, Any]:
    """CPU microseconds per request, in all and by step: the best of some rounds."""
    place_many(policy_name, WARM_UP, Steps(notes=False))
    whole, by_step = [], []
    for _ in range(ROUNDS):
        whole.append(1e6 * place_many(policy_name, num_requests, Steps(notes=False)) / num_requests)
        steps = Steps(notes=True)
        place_many(policy_name, num_requests, steps)
        by_step.append({name: 1e-3 * ns / num_requests for name, ns in steps.spent.items()})
    least = min(by_step, key=lambda one: sum(one.values()))
    print(f"{PROMPT_TOKENS} tokens among {len(ROLES)} workers, policy {policy_name}, CPU-us each:")
    print(
        f"  {min(whole):.0f} in all; " + ", ".join(f"{name} {us:.1f}" for name, us in least.items())
    )
    return {
        "cpu_us_per_request": round(min(whole), 1),
        "cpu_us_by_step": {name: round(us, 2) for name, us in least.items()},
    }
