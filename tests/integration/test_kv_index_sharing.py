"""Gateway processes that share a prefix index, fed by one stream from each worker.

Real engine loops and event streams; the processes are two gateways in this one, which
have nothing in common but the memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

from baton.core.settings import GatewaySettings, RouterSettings
from baton.gateway.workers.fleet import Fleet
from baton.gateway.workers.kv_events import KvIndexReader
from baton.gateway.workers.kv_index_view import KvIndexView
from baton.gateway.workers.prefix_lookup import PrefixLookup
from baton.gateway.workers.prompt_hashes import PromptHashes
from baton.router.pool import Pool
from baton.router.shared.index import IndexView
from baton.router.shared.memory import SharedFile
from baton.telemetry.metrics import Metrics
from baton.transfer.layout import group_to_proto
from baton.v1 import common_pb2
from baton.worker.events import EventLog, Watcher
from fakes.engines import prompt, request
from fakes.loop_worker import TOKEN, LoopWorker, loop_workers
from fakes.memory_store import MemoryStore
from fakes.until import until

BLOCK = 4
MODEL = "loop"


class CountingEventLog(EventLog):
    """Counts who asked for its events."""

    num_streams = 0

    async def serve(self, watcher: Watcher) -> None:
        self.num_streams += 1
        await super().serve(watcher)


def lease(worker: LoopWorker) -> common_pb2.WorkerLease:
    return common_pb2.WorkerLease(
        worker=worker.ref,
        model=MODEL,
        digest=worker.digest,
        groups=[group_to_proto(group) for group in worker.runner.groups],
        capacity=common_pb2.Capacity(
            num_blocks=worker.runner.num_blocks[0], block_size=BLOCK, max_sequences=64
        ),
    )


class Process:
    """What one gateway process has: a fleet and its part of the index."""

    def __init__(self, file: SharedFile, number: int) -> None:
        self.metrics = Metrics()
        self.pool = Pool()
        store = cast(Any, MemoryStore())
        self.fleet = Fleet(store, self.pool, TOKEN, GatewaySettings(), self.metrics, tokenizer="")
        settings = RouterSettings()
        self.part: KvIndexReader | KvIndexView
        if number:
            self.part = KvIndexView(self.fleet, settings, IndexView(file))
        else:
            self.part = KvIndexReader(self.fleet, TOKEN, settings, self.metrics, share=file)
        self.lookup: PrefixLookup = self.part.lookup
        self.rows: dict[str, int] = {}

    def add(self, worker: LoopWorker) -> None:
        entry = lease(worker)
        row = self.rows[worker.name] = self.pool.add(entry)
        self.fleet.on_worker_up(row, entry)

    def lose(self, worker: LoopWorker) -> None:
        row = self.rows.pop(worker.name)
        self.fleet.on_worker_gone(row)
        self.pool.remove(row)

    def blocks(self, worker: LoopWorker, seed: int) -> int:
        """Of a prompt on a worker's device."""
        found = self.lookup.overlap(MODEL, PromptHashes(prompt(41, seed)))
        return 0 if found is None else int(found.device[self.rows[worker.name]])


@contextlib.asynccontextmanager
async def processes(count: int) -> AsyncIterator[list[Process]]:
    file = SharedFile.create()
    made = [Process(file, number) for number in range(count)]
    for process in made:
        process.part.start()
    try:
        yield made
    finally:
        for process in made:
            await process.part.close()
        file.close()


async def compute(worker: LoopWorker, *seeds: int) -> None:
    for seed in seeds:
        wanted = request(prompt(41, seed), max_tokens=6, ignore_eos=True)
        await worker.generated(worker.submit(seed, wanted))


async def test_each_worker_has_one_stream_however_many_processes_there_are() -> None:
    async with (
        loop_workers(kv_blocks=64, event_log=CountingEventLog) as (one, two),
        processes(3) as all_processes,
    ):
        await compute(one, 1)
        first, *others = all_processes
        for process in others:
            # Each has rows of its own.
            process.add(two)
            process.add(one)
            assert not process.part.is_synced()
        for worker in (one, two):
            first.add(worker)
        await compute(one, 2)
        await compute(two, 3)
        for process in all_processes:
            await until(process.part.is_synced)
            await until(lambda p=process: p.blocks(one, 2) == p.blocks(two, 3) == 10)
            assert process.blocks(one, 1) == 10
            assert process.blocks(two, 1) == process.blocks(one, 3) == 0
        # More than fits: evictions reach all.
        await compute(one, *range(10, 20))
        for process in all_processes:
            await until(lambda p=process: p.blocks(one, 1) == 0)
        for worker in (one, two):
            assert cast(CountingEventLog, worker.events).num_streams == 1


async def test_what_a_process_expects_is_its_own() -> None:
    async with (
        loop_workers(num_workers=1) as (worker,),
        processes(2) as (first, second),
    ):
        for process in (first, second):
            process.add(worker)
        await until(second.part.is_synced)
        second.lookup.placed(second.rows[worker.name], PromptHashes(prompt(41, 5)))
        assert (first.blocks(worker, 5), second.blocks(worker, 5)) == (0, 10)
        first.lookup.placed(first.rows[worker.name], PromptHashes(prompt(41, 6)))
        assert (first.blocks(worker, 6), second.blocks(worker, 6)) == (10, 0)


async def test_worker_that_is_gone_leaves_nothing_to_its_successor() -> None:
    async with (
        loop_workers() as (old, new),
        processes(2) as (first, second),
    ):
        await compute(old, 1)
        await compute(new, 2)
        for process in (first, second):
            process.add(old)
        await until(lambda: second.blocks(old, 1) == 10)
        second.lose(old)
        # The reader has not noticed yet; the row is used again here.
        second.add(new)
        assert second.blocks(new, 1) == 0
        first.lose(old)
        first.add(new)
        await until(lambda: second.blocks(new, 2) == 10)
        assert second.blocks(new, 1) == first.blocks(new, 1) == 0
