"""How far the index is behind a worker's cache, seen through the real feed."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from baton.core.settings import GatewaySettings, RouterSettings
from baton.engine.outputs import CacheDelta
from baton.gateway.workers.fleet import Fleet
from baton.gateway.workers.kv_events import KvIndexReader
from baton.router.pool import Pool
from baton.telemetry.metrics import Metrics
from baton.transfer.layout import group_to_proto
from baton.v1 import common_pb2
from fakes.link import Link
from fakes.loop_worker import TOKEN, loop_workers
from fakes.memory_store import MemoryStore
from fakes.until import until

HELD_S = 0.2


async def test_events_that_were_held_up_are_late() -> None:
    metrics, pool = Metrics(), Pool()

    def sample(name: str) -> float:
        return metrics.registry.get_sample_value(f"baton_kv_event_lag_seconds_{name}") or 0.0

    fleet = Fleet(cast(Any, MemoryStore()), pool, TOKEN, GatewaySettings(), metrics, tokenizer="")
    reader = KvIndexReader(fleet, TOKEN, RouterSettings(), metrics)
    async with loop_workers(num_workers=1) as (worker,), asyncio.timeout(60):
        link = Link(int(worker.ref.address.rpartition(":")[2]))
        await link.open()
        lease = common_pb2.WorkerLease(
            worker=common_pb2.WorkerRef(
                worker_id=worker.name, epoch=worker.epoch, address=f"127.0.0.1:{link.port}"
            ),
            digest=worker.digest,
            groups=[group_to_proto(group) for group in worker.runner.groups],
            capacity=common_pb2.Capacity(
                num_blocks=99, block_size=worker.runner.groups[0].block_size, max_sequences=9
            ),
        )
        fleet.on_worker_up(pool.add(lease), lease)
        try:
            await until(reader.is_synced)
            number = 0

            async def tell(held_s: float) -> None:
                """One event, that waits on its way; back when it has been applied."""
                nonlocal number
                number += 1
                link.hold()
                stored = (number.to_bytes(16, "little"),)
                worker.events.append([CacheDelta(0, stored)])
                await asyncio.sleep(held_s)
                link.resume()
                await until(lambda: sample("count") == number)

            await tell(0)
            assert sample("sum") == 0, "the first one is the quickest so far"
            # On a busy machine a quick one may take long.
            while sample("sum") < HELD_S / 2:
                await tell(0)
                await tell(HELD_S)
            assert reader.exact.num_blocks == number
        finally:
            await reader.close()
            await link.close()
