"""Several gateways, many workers, prompts that all share their beginning: nobody gets it all.

A fleet on virtual time: workers compute prompts one after the other and generate in one batch, say
every 20 ms how they are, and gateways hear of it one tick later. Each gateway has a pool of its own
and knows of the others only by these reports.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest

from baton.router.policy.base import RequestView
from baton.router.policy.registry import policy_named
from baton.router.pool import Booking, Pool
from baton.router.prefix_index import Overlap
from baton.router.selection import book, select
from baton.v1 import session_pb2, worker_pb2
from fakes.routing import BLOCK_SIZE, NUM_BLOCKS, lease

TICK_S = 0.02
TOKENS_PER_S = 20_000.0
NUM_GATEWAYS = 4
NUM_WORKERS = 32
SHARED_BLOCKS = 200
OWN_TOKENS = 320
OUTPUT_TICKS = 100


@dataclass
class Job:
    prefix: int
    booking: Booking
    gateway: int
    tokens: float = 0.0


@dataclass
class Worker:
    queue: list[Job] = field(default_factory=list)
    running: list[tuple[int, Job]] = field(default_factory=list)
    prefixes: set[int] = field(default_factory=set)
    num_requests: int = 0
    tokens: int = 0


class World:
    def __init__(self, num_prefixes: int, seed: int, policy: str = "kv_aware") -> None:
        self.policy = policy_named(policy)
        self.rng = random.Random(seed)
        self.num_prefixes = num_prefixes
        self.workers = [Worker() for _ in range(NUM_WORKERS)]
        self.pools = [Pool() for _ in range(NUM_GATEWAYS)]
        for pool in self.pools:
            for number in range(NUM_WORKERS):
                row = pool.add(lease(f"a{number}"))
                assert row == number
                pool.set_up(row, True)
        self.rngs = [random.Random(seed + 1 + number) for number in range(NUM_GATEWAYS)]
        # What gateways know of caches, a tick late.
        self.known: list[frozenset[int]] = [frozenset()] * NUM_WORKERS
        self.unplaced: list[tuple[int, int]] = []
        self.tick = 0

    def overlap(self, prefix: int) -> Overlap:
        device = np.zeros(len(self.pools[0].columns), np.int64)
        for row, known in enumerate(self.known):
            if prefix in known:
                device[row] = SHARED_BLOCKS
        none = np.zeros_like(device)
        return Overlap(device, none, none, int(device.max()))

    def arrive(self, rate: float) -> None:
        """`rate` requests per tick on average, each at a gateway of its own."""
        for _ in range(int(rate) + (self.rng.random() < rate % 1)):
            gateway = self.rng.randrange(NUM_GATEWAYS)
            self.unplaced.append((gateway, self.rng.randrange(self.num_prefixes)))
        self.unplaced = [one for one in self.unplaced if not self.place(*one)]

    def place(self, gateway: int, prefix: int) -> bool:
        view = RequestView(
            "m",
            SHARED_BLOCKS * BLOCK_SIZE + OWN_TOKENS,
            overlap=self.overlap(prefix),
            expected_output=OUTPUT_TICKS,
        )
        pool = self.pools[gateway]
        selection = select(view, pool, self.policy, self.rngs[gateway])
        if selection is None:
            return False
        _, booking = book(view, pool, selection)
        worker = self.workers[selection.decode]
        job = Job(prefix, booking, gateway)
        cached = prefix in worker.prefixes or selection.fetch_from is not None
        job.tokens = view.num_tokens - cached * SHARED_BLOCKS * BLOCK_SIZE
        worker.queue.append(job)
        worker.num_requests += 1
        worker.tokens += int(job.tokens)
        return True

    def step(self) -> None:
        self.tick += 1
        self.known = [frozenset(worker.prefixes) for worker in self.workers]
        for row, worker in enumerate(self.workers):
            self.report(row, worker)
            self.work(worker)

    def work(self, worker: Worker) -> None:
        for _, job in (one for one in worker.running if one[0] <= self.tick):
            self.pools[job.gateway].end(job.booking)
        worker.running = [one for one in worker.running if one[0] > self.tick]
        left = TICK_S * TOKENS_PER_S
        while worker.queue and left > 0:
            job = worker.queue[0]
            self.pools[job.gateway].begin(job.booking)
            done = min(left, job.tokens)
            job.tokens -= done
            left -= done
            if job.tokens <= 0:
                worker.queue.pop(0)
                worker.prefixes.add(job.prefix)
                worker.running.append((self.tick + OUTPUT_TICKS, job))

    def report(self, row: int, worker: Worker) -> None:
        num_running = len(worker.running)
        load = session_pb2.Load(
            queue_room=10,
            num_running=num_running,
            num_waiting=len(worker.queue),
            queued_prefill_tokens=int(sum(job.tokens for job in worker.queue)),
            free_blocks=NUM_BLOCKS - 30 * num_running,
            prefill_tokens_per_s=TOKENS_PER_S,
            prefill_step_s=TICK_S,
            step_s=0.01 + 0.0002 * num_running,
            links=[worker_pb2.PeerLink(is_up=True, bytes_per_s=10e9)],
        )
        for pool in self.pools:
            pool.report(row, load)

    def run(self, ticks: int, rate: float) -> None:
        for _ in range(ticks):
            self.arrive(rate)
            self.step()

    def imbalance(self) -> float:
        """The busiest worker's requests over the mean."""
        requests = [worker.num_requests for worker in self.workers]
        return max(requests) * NUM_WORKERS / sum(requests)


@pytest.mark.parametrize(("num_prefixes", "rate"), [(1, 4.0), (1, 12.0), (20, 8.0)])
def test_no_worker_gets_much_more_than_the_mean(num_prefixes: int, rate: float) -> None:
    """4 requests in 20 ms are a quarter of what the fleet could do without sharing anything."""
    world = World(num_prefixes, seed=11)
    world.run(200, rate)
    assert world.imbalance() <= 1.3
    # And what is shared is not computed again and again.
    requests = sum(worker.num_requests for worker in world.workers)
    tokens = sum(worker.tokens for worker in world.workers)
    assert tokens / requests < 0.5 * (SHARED_BLOCKS * BLOCK_SIZE + OWN_TOKENS)


def test_burst_at_zero_load_is_spread() -> None:
    """All loads are 0 when the gateways choose, and none hears of the others' choices in time."""
    world = World(1, seed=5)
    world.arrive(8 * NUM_WORKERS)
    requests = [worker.num_requests for worker in world.workers]
    assert max(requests) <= 3 * sum(requests) / NUM_WORKERS
    assert min(requests) > 0


def test_hot_prefix_does_not_draw_everybody_to_its_first_holder() -> None:
    world = World(1, seed=6)
    world.arrive(1.0)
    world.run(12, 0.0)
    assert [bool(worker.prefixes) for worker in world.workers].count(True) == 1
    world.run(150, 6.0)
    assert world.imbalance() <= 1.3
    assert all(worker.prefixes for worker in world.workers)
