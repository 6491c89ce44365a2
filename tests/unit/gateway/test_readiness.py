"""When a gateway says that requests should come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from baton.core.settings import GatewaySettings
from baton.gateway.readiness import START_WAIT_S, Readiness
from baton.gateway.workers.fleet import Fleet
from baton.router.pool import Pool
from baton.store.base import WatchEvent
from baton.telemetry.metrics import Metrics
from fakes.clock import ManualClock
from fakes.memory_store import MemoryStore
from fakes.token_plane import TokenPlane
from fakes.until import until
from fakes.worker import TOKEN, FakeWorker


class SilentStore(MemoryStore):
    """Its watch has nothing to say until `answers` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = asyncio.Event()

    async def watch(self, prefix: str) -> AsyncIterator[WatchEvent]:
        await self.answers.wait()
        async for change in super().watch(prefix):
            yield change


async def test_no_workers_are_none_missing() -> None:
    async with TokenPlane() as plane:
        readiness = Readiness(plane.fleet)
        await plane.until(lambda: readiness.reason() is None)
        assert not plane.fleet.is_ready("fake")


async def test_workers_found_at_the_start_are_waited_for() -> None:
    worker = FakeWorker("a")
    await worker.start()
    store, clock = MemoryStore(), ManualClock()
    await store.put(worker.lease_key, worker.lease.SerializeToString())
    worker.link.hold()
    fleet = Fleet(store, Pool(), TOKEN, GatewaySettings(), Metrics(), tokenizer="")
    readiness = Readiness(fleet, clock=clock)
    assert readiness.reason() is not None
    fleet.start()
    await until(lambda: fleet.num_missing_from_start() == 1)
    assert "1 of the workers" in (readiness.reason() or "")
    worker.link.resume()
    await until(lambda: readiness.reason() is None)
    # One that comes or goes later is no reason to stop.
    await worker.die()
    assert readiness.reason() is None
    await fleet.close()


async def test_workers_that_cannot_be_reached_are_not_waited_for() -> None:
    worker = FakeWorker("a")
    await worker.start()
    store = MemoryStore()
    await store.put(worker.lease_key, worker.lease.SerializeToString())
    await worker.die()
    fleet = Fleet(store, Pool(), TOKEN, GatewaySettings(), Metrics(), tokenizer="")
    readiness = Readiness(fleet, clock=ManualClock())
    fleet.start()
    await until(lambda: readiness.reason() is None)
    await fleet.close()


async def test_a_store_that_is_away_is_waited_for_no_longer_than_that() -> None:
    store, clock = SilentStore(), ManualClock()
    fleet = Fleet(store, Pool(), TOKEN, GatewaySettings(), Metrics(), tokenizer="")
    fleet.start()
    readiness = Readiness(fleet, clock=clock)
    clock.advance(START_WAIT_S - 0.001)
    assert "the store has not answered" in (readiness.reason() or "")
    clock.advance(0.001)
    assert readiness.reason() is None
    await fleet.close()


async def test_after_a_while_it_is_ready_whatever_is_missing() -> None:
    store, clock = SilentStore(), ManualClock()
    fleet = Fleet(store, Pool(), TOKEN, GatewaySettings(), Metrics(), tokenizer="")
    fleet.start()
    readiness = Readiness(fleet, snapshots_done=lambda: False, clock=clock)
    await asyncio.sleep(0.01)
    assert "the store has not answered" in (readiness.reason() or "")
    store.answers.set()
    await until(lambda: fleet.num_missing_from_start() is not None)
    assert "what its workers have cached" in (readiness.reason() or "")
    clock.advance(START_WAIT_S)
    assert readiness.reason() is None
    await fleet.close()
