"""The Redis store behind real Sentinels: a failover under a gateway's feet, and a worker's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from baton.core.settings import GatewaySettings
from baton.gateway.workers.fleet import PREFIX, Fleet
from baton.router.pool import Pool
from baton.store.base import StoreUnavailableError, WatchEvent
from baton.store.lease import Holder, LeaseKeeper
from baton.store.redis import RedisStore
from baton.telemetry.metrics import Metrics
from fakes.until import until
from fakes.worker import TOKEN, FakeWorker
from suites.redis_connections import open_connections
from suites.redis_groups import SentinelServers
from suites.store_tools import PATIENCE_S, watching, when_up

pytestmark = pytest.mark.redis


@pytest.fixture
def servers() -> Iterator[SentinelServers]:
    servers = SentinelServers("s3cret")
    servers.start()
    yield servers
    servers.close()
    assert open_connections() == []


async def test_the_store_follows_a_failover_with_one_sentinel_frozen(
    servers: SentinelServers,
) -> None:
    store = RedisStore(servers.url, "p", rescan_s=0.2)
    try:
        await store.put("k", b"1")
        async with watching(store, "") as watch:
            await watch.until("synced")
            servers.sentinels[0].freeze()
            servers.primary.stop()
            with pytest.raises(StoreUnavailableError) as caught:
                async with asyncio.timeout(PATIENCE_S):
                    while True:
                        await store.get("k")
            assert "s3cret" not in str(caught.value)
            await when_up(store)
            await store.put("after", b"2")
            assert (await watch.until("put", "after"))[-1] == WatchEvent("put", "after", b"2")
    finally:
        await store.close()


async def test_sentinels_that_do_not_answer_are_named_and_no_password_is(
    servers: SentinelServers,
) -> None:
    for sentinel in servers.sentinels:
        sentinel.stop()
    store = RedisStore(f"{servers.url}?sentinel_password=s3cret", "p")
    with pytest.raises(StoreUnavailableError, match="no Sentinel that answers") as caught:
        await store.get("k")
    assert str(servers.sentinels[0].port) in str(caught.value)
    assert "s3cret" not in str(caught.value)
    await store.close()


async def test_a_gateway_and_a_worker_with_a_lease_outlive_a_failover(
    servers: SentinelServers,
) -> None:
    worker = await FakeWorker("w1").start()
    lease = worker.lease.SerializeToString()

    async def look(_: bytes) -> Holder:
        return Holder.GONE

    keeper = LeaseKeeper(
        servers.url, TOKEN, "p", worker.lease_key, lambda: lease, look, lambda _: None, 5.0, 0.2
    )
    assert await asyncio.to_thread(keeper.start) is None
    store = RedisStore(servers.url, "p", rescan_s=0.2)
    fleet = Fleet(store, Pool(), TOKEN, GatewaySettings(), Metrics(), tokenizer="")
    fleet.start()
    try:
        await until(lambda: fleet.is_ready(worker.lease.model))
        servers.primary.stop()
        for _ in range(10):
            assert fleet.is_ready(worker.lease.model), "what is known keeps serving"
            await asyncio.sleep(0.1)
        await when_up(store)
        async with asyncio.timeout(PATIENCE_S):
            while await store.get(worker.lease_key) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert fleet.is_ready(worker.lease.model)
        assert list(await store.list(PREFIX)) == [worker.lease_key]
    finally:
        await asyncio.to_thread(keeper.stop)
        await fleet.close()
        await store.close()
        await worker.die()
