"""The gateway's prefix index is what the workers' caches hold, whatever happens in between.

Real engine loops and event streams; streams are cut by a relay.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

from baton.core.block_hash import extend_hashes, index_keys, root_hash
from baton.core.clock import monotonic
from baton.core.request import Request
from baton.core.settings import GatewaySettings, RouterSettings
from baton.engine.outputs import CacheDelta, Tier
from baton.gateway.workers.fleet import Fleet
from baton.gateway.workers.kv_events import KvIndexReader
from baton.gateway.workers.prompt_hashes import PromptHashes
from baton.router.pool import Pool
from baton.telemetry.metrics import Metrics
from baton.transfer.layout import group_to_proto
from baton.v1 import common_pb2
from baton.worker.events import EventLog
from fakes.engines import prompt, request
from fakes.link import Link
from fakes.loop_worker import TOKEN, LoopWorker, loop_workers
from fakes.lossy_events import LossyEventLog
from fakes.memory_store import MemoryStore

BLOCK = 4
MODEL = "loop"


def wanted(length: int, seed: int, salt: str = "") -> Request:
    made = request(prompt(length, seed), max_tokens=6, ignore_eos=True)
    deadline = time.monotonic() + 60
    return replace(made, model=MODEL, tenant_salt=salt, deadline=deadline)


def port_of(worker: LoopWorker) -> int:
    return int(worker.ref.address.rpartition(":")[2])


def lease(worker: LoopWorker, port: int) -> common_pb2.WorkerLease:
    """As the worker would write it, reached through a relay."""
    ref = common_pb2.WorkerRef(
        worker_id=worker.name, epoch=worker.epoch, address=f"127.0.0.1:{port}"
    )
    return common_pb2.WorkerLease(
        worker=ref,
        model=MODEL,
        digest=worker.digest,
        groups=[group_to_proto(group) for group in worker.runner.groups],
        capacity=common_pb2.Capacity(
            num_blocks=worker.runner.num_blocks[0], block_size=BLOCK, max_sequences=64
        ),
    )


class Gateway:
    """The part that reads events, told of workers as a fleet does."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.pool = Pool()
        self.fleet = Fleet(
            cast(Any, MemoryStore()),
            self.pool,
            TOKEN,
            GatewaySettings(),
            self.metrics,
            tokenizer="",
        )
        self.reader = KvIndexReader(self.fleet, TOKEN, RouterSettings(), self.metrics)
        self.links: dict[str, Link] = {}
        self.rows: dict[str, int] = {}

    async def add(self, worker: LoopWorker) -> int:
        link = self.links[worker.name] = Link(port_of(worker))
        await link.open()
        entry = lease(worker, link.port)
        row = self.rows[worker.name] = self.pool.add(entry)
        self.fleet.on_worker_up(row, entry)
        return row

    async def lose(self, worker: LoopWorker) -> None:
        row = self.rows.pop(worker.name)
        self.fleet.on_worker_gone(row)
        self.pool.remove(row)
        await self.links.pop(worker.name).close()

    def count(self, kind: str) -> float:
        value = self.metrics.registry.get_sample_value("baton_kv_events_total", {"kind": kind})
        return value or 0.0

    def overlap(self, worker: LoopWorker, asked: Request) -> int:
        """Blocks of a prompt that the index sees on a worker's device."""
        found = self.reader.lookup.overlap(MODEL, PromptHashes.of(asked))
        assert found is not None and len(found.device) == len(self.pool.columns)
        return int(found.device[self.rows[worker.name]])

    async def agrees(self, worker: LoopWorker) -> None:
        """Wait until the index has just the blocks of a worker's device, hash by hash."""
        row, index = self.rows[worker.name], self.reader.exact
        async with asyncio.timeout(60):
            while True:
                held = (await worker.ask(worker.engine.cached_hashes))[0]
                keys = index_keys(held)
                known = sum(
                    int(index.match(keys[i : i + 1], monotonic(), row + 1).device[row])
                    for i in range(len(keys))
                )
                if known == len(keys) == index.blocks_of(row)[0] and self.reader.is_synced():
                    return
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def gateway(*workers: LoopWorker) -> AsyncIterator[Gateway]:
    made = Gateway()
    made.reader.start()
    try:
        for worker in workers:
            await made.add(worker)
        yield made
    finally:
        await made.reader.close()
        for link in made.links.values():
            await link.close()


async def compute(worker: LoopWorker, *seeds: int, length: int = 41, salt: str = "") -> None:
    for seed in seeds:
        await worker.generated(worker.submit(seed, wanted(length, seed, salt)))


async def test_index_follows_traffic_and_evictions_of_several_workers() -> None:
    async with loop_workers(kv_blocks=64) as (one, two):
        await compute(one, 1)
        async with gateway(one, two) as front:
            await compute(one, 2)
            await compute(two, 3)
            for worker in (one, two):
                await front.agrees(worker)
            assert front.overlap(one, wanted(41, 1)) == front.overlap(one, wanted(41, 2)) == 10
            assert front.overlap(two, wanted(41, 1)) == 0
            assert front.overlap(two, wanted(41, 3)) == 10
            # A request always leaves its last token to compute.
            assert front.overlap(two, wanted(40, 3)) == 0, "prompts of other lengths differ"
            exact = replace(wanted(41, 3), prompt=wanted(41, 3).prompt[:40])
            assert front.overlap(two, exact) == 9
            assert front.overlap(two, wanted(41, 3, salt="b")) == 0
            # More prompts than fit.
            await compute(one, *range(10, 20))
            await front.agrees(one)
            assert front.overlap(one, wanted(41, 1)) == 0
            assert front.count("snapshot") == 2 and front.count("gap") == 0


async def test_cut_stream_goes_on_where_it_was() -> None:
    async with loop_workers(num_workers=1) as (worker,), gateway(worker) as front:
        await compute(worker, 1)
        await front.agrees(worker)
        link = front.links[worker.name]
        for seed in (2, 3, 4):
            link.cut()
            await compute(worker, seed)
            await front.agrees(worker)
        # The log still had what was missed.
        assert front.count("snapshot") == 1


async def test_watcher_that_fell_behind_gets_a_snapshot() -> None:
    short = partial(EventLog, max_deltas=2, chunk_hashes=3)
    async with (
        loop_workers(num_workers=1, event_log=short) as (worker,),
        gateway(worker) as front,
    ):
        await compute(worker, 1)
        await front.agrees(worker)
        link = front.links[worker.name]
        await link.close()
        await compute(worker, *range(2, 12))
        await link.open(link.port)
        await front.agrees(worker)
        assert front.count("snapshot") == 2
        assert front.count("chunk") > 3


async def test_gap_is_repaired_by_a_snapshot() -> None:
    async with (
        loop_workers(num_workers=1, event_log=LossyEventLog) as (worker,),
        gateway(worker) as front,
    ):
        await compute(worker, 1)
        await front.agrees(worker)
        cast(LossyEventLog, worker.events).num_to_lose = 1
        await compute(worker, 2, 3)
        await front.agrees(worker)
        assert front.count("gap") == 1 and front.count("snapshot") == 2


async def test_worker_that_is_gone_leaves_nothing_to_its_successor() -> None:
    async with loop_workers() as (first, second), gateway(first) as front:
        await compute(first, 1)
        await compute(second, 2)
        await front.agrees(first)
        row = front.rows[first.name]
        await front.lose(first)
        assert front.reader.exact.num_blocks == 0
        assert front.reader.lookup.overlap(MODEL, PromptHashes.of(wanted(41, 1))) is None
        # The row is used again.
        assert await front.add(second) == row
        await front.agrees(second)
        assert front.overlap(second, wanted(41, 1)) == 0
        assert front.overlap(second, wanted(41, 2)) == 10


async def test_new_epoch_on_the_same_address_purges_the_old() -> None:
    async with loop_workers() as (first, second), gateway(first) as front:
        await compute(first, 1)
        await compute(second, 2)
        await front.agrees(first)
        # The address now leads to another life.
        front.links[first.name].retarget(port_of(second))
        front.rows[second.name] = front.rows[first.name]
        await front.agrees(second)
        assert front.overlap(second, wanted(41, 1)) == 0
        assert front.overlap(second, wanted(41, 2)) == 10


async def test_placed_prompt_counts_before_the_worker_says_so() -> None:
    async with loop_workers(num_workers=1) as (worker,), gateway(worker) as front:
        await front.agrees(worker)
        asked = wanted(41, 5)
        front.reader.lookup.placed(front.rows[worker.name], PromptHashes.of(asked))
        assert front.overlap(worker, asked) == 10
        sibling = replace(asked, prompt=(*asked.prompt[:24], *prompt(30, 6)))
        assert front.overlap(worker, sibling) == 6
        assert front.reader.exact.num_blocks == 0


async def test_worker_without_full_attention_is_not_indexed() -> None:
    async with loop_workers(num_workers=1) as (worker,):
        front = Gateway()
        entry = lease(worker, 1)
        entry.groups[0].kind = common_pb2.GroupSpec.KIND_WINDOW
        front.fleet.on_worker_up(front.pool.add(entry), entry)
        assert front.reader.is_synced()
        assert front.reader.lookup.overlap(MODEL, PromptHashes.of(wanted(41, 1))) is None


async def test_tiers_are_told_apart_in_deltas_and_snapshots() -> None:
    async with loop_workers(num_workers=1) as (worker,), gateway(worker) as front:
        await compute(worker, 1)
        await front.agrees(worker)
        asked = wanted(41, 1)
        hashes = tuple(extend_hashes(root_hash(worker.digest), wanted(41, 1).prompt, BLOCK))
        worker.events.append(
            [
                CacheDelta(0, removed=hashes[4:]),
                CacheDelta(0, stored=hashes[4:], tier=Tier.HOST),
                CacheDelta(0, stored=hashes[6:], tier=Tier.DISK),
                CacheDelta(0, removed=hashes[8:], tier=Tier.HOST),
            ]
        )
        row = front.rows[worker.name]

        def seen() -> list[int]:
            found = front.reader.lookup.overlap(MODEL, PromptHashes.of(asked))
            if found is None:
                return []
            return [int(counts[row]) for counts in (found.device, found.host, found.disk)]

        async with asyncio.timeout(60):
            while seen() != [4, 4, 2]:  # noqa: ASYNC110 - it comes over the network
                await asyncio.sleep(0.005)
        await front.lose(worker)
        row = await front.add(worker)
        async with asyncio.timeout(60):
            while seen() != [4, 4, 2]:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
