"""The Redis store against a real redis-server: the suite, and what only it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from baton.core.errors import ConfigError
from baton.store.base import Store, StoreRefusesError, StoreUnavailableError, WatchEvent
from baton.store.connect import connect
from baton.store.redis import RedisStore
from suites.limits import LimitSuite
from suites.redis_connections import open_connections
from suites.redis_server import RedisServer
from suites.store import StoreSuite
from suites.store_tools import logged, watching

pytestmark = pytest.mark.redis


class RedisBackend:
    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.url = server.url
        self._clients: list[RedisStore] = []

    def open(self, prefix: str = "p", timeout_s: float = 5.0) -> Store:
        client = RedisStore(self.url, prefix, timeout_s, rescan_s=0.1)
        self._clients.append(client)
        return client

    async def start(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def stop(self) -> None:
        await asyncio.to_thread(self.server.stop)

    async def freeze(self) -> None:
        self.server.freeze()

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        await self.stop()
        assert open_connections() == []


@pytest.fixture
async def backend() -> AsyncIterator[RedisBackend]:
    backend = RedisBackend(RedisServer())
    await backend.start()
    yield backend
    await backend.close()


class TestRedisStore(StoreSuite):
    pass


class TestRedisLimits(LimitSuite):
    pass


async def test_closing_a_store_ends_its_calls_and_closes_what_they_opened(
    backend: RedisBackend,
) -> None:
    """Also those that were only connecting, which nobody would close later."""
    store = backend.open()
    calls = [asyncio.create_task(store.get("k")) for _ in range(20)]
    await asyncio.sleep(0)
    await store.close()
    assert open_connections() == []
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, StoreUnavailableError) for result in results)
    assert "is closed" in str(results[0])
    assert open_connections() == []


async def test_a_frozen_server_is_no_more_than_an_outage_to_a_watch(
    backend: RedisBackend, caplog: pytest.LogCaptureFixture
) -> None:
    store = backend.open(timeout_s=0.2)
    async with watching(store, "") as watch:
        await watch.until("synced")
        await backend.freeze()
        task = asyncio.create_task(watch.next())
        while "store_down" not in logged(caplog):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await backend.stop()
        await backend.start()
        assert await task == WatchEvent("synced")


async def test_changes_made_behind_the_watchs_back_are_found(backend: RedisBackend) -> None:
    store = backend.open()
    await store.put("a", b"1")
    await store.put("b", b"2")
    async with watching(store, "") as watch:
        await watch.until("synced")
        async with Redis.from_url(backend.url) as redis:
            # As after a failover to a replica that had not seen everything.
            await redis.delete("p:k:a")
            await redis.set("p:k:b", b"3")
        assert [await watch.next(), await watch.next()] == [
            WatchEvent("expired", "a"),
            WatchEvent("put", "b", b"3"),
        ]


async def test_changes_that_the_first_listing_shows_are_not_told_again(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, writer = backend.open(), backend.open()
    listing = RedisStore._snapshot
    written = False

    async def write_first(self: RedisStore, prefix: str) -> tuple[dict[str, bytes], int]:
        # Between the subscription and the listing: both have these changes.
        nonlocal written
        if self is store and not written:
            written = True
            await writer.put("k", b"1")
            await writer.put("k", b"2")
        return await listing(self, prefix)

    monkeypatch.setattr(RedisStore, "_snapshot", write_first)
    async with watching(store, "") as watch:
        assert await watch.until("synced") == [WatchEvent("put", "k", b"2"), WatchEvent("synced")]
        await writer.put("end", b"")
        assert await watch.next() == WatchEvent("put", "end", b"")


async def test_renewals_cost_watchers_no_message(backend: RedisBackend) -> None:
    store = backend.open()
    async with Redis.from_url(backend.url) as redis:
        await store.put("k", b"1", ttl_s=600)
        before = await redis.get("p:version")
        await store.put("k", b"1", ttl_s=600)
        assert await redis.get("p:version") == before
        await store.put("k", b"2", ttl_s=600)
        assert await redis.get("p:version") != before


async def test_a_flushed_server_is_followed(backend: RedisBackend) -> None:
    store = backend.open()
    await store.put("a", b"1")
    async with watching(store, "") as watch:
        await watch.until("synced")
        async with Redis.from_url(backend.url) as redis:
            await redis.flushall()
        assert await watch.next() == WatchEvent("expired", "a")
        await store.put("b", b"2")
        assert await watch.next() == WatchEvent("put", "b", b"2")


async def test_keys_are_the_prefixs_only_and_leases_have_a_ttl(backend: RedisBackend) -> None:
    store = backend.open("mine")
    await store.put("workers/a", b"1", ttl_s=60)
    await store.put("doc", b"2")
    async with Redis.from_url(backend.url) as redis:
        assert set(await redis.keys("*")) == {
            b"mine:k:workers/a",
            b"mine:k:doc",
            b"mine:index",
            b"mine:version",
            b"mine:lasting",
        }
        assert 0 < await redis.pttl("mine:k:workers/a") <= 60_000
        assert await redis.pttl("mine:k:doc") == -1


async def test_expired_keys_leave_the_index(backend: RedisBackend) -> None:
    store = backend.open()
    async with watching(store, "") as watch:
        await watch.until("synced")
        await store.put("k", b"", ttl_s=0.01)
        await watch.until("expired", "k")
    async with Redis.from_url(backend.url) as redis:
        assert await redis.zcard("p:index") == 0


async def test_a_wrong_password_is_named_without_showing_it() -> None:
    server = RedisServer(password="right")
    server.start()
    try:
        for url in (
            server.url,
            server.url.replace("//", "//:wr0ng@"),
            f"{server.url}?password=wr0ng",
        ):
            with pytest.raises(StoreRefusesError) as caught:
                await connect(url, "token", "p")
            assert str(server.port) in str(caught.value)
            assert "wr0ng" not in str(caught.value)
        store = await connect(server.url.replace("//", "//:right@"), "token", "p")
        await store.put("k", b"1")
        await store.close()
    finally:
        server.stop()


async def test_a_password_is_not_shown_when_the_store_is_down() -> None:
    server = RedisServer()
    store = RedisStore(server.url.replace("//", "//user:s3cret@"), "p")
    with pytest.raises(StoreUnavailableError) as caught:
        await store.get("k")
    assert "s3cret" not in str(caught.value)
    assert f"user:***@127.0.0.1:{server.port}" in str(caught.value)
    await store.close()


async def test_a_wrong_database_number_is_a_clear_error(backend: RedisBackend) -> None:
    with pytest.raises(ConfigError, match=r"store\.url"):
        RedisStore("redis://127.0.0.1:port/0", "p")


async def test_a_call_that_is_cancelled_at_any_moment_is_cancelled(backend: RedisBackend) -> None:
    # Python 3.11's wait_for, on which redis-py relies, loses a cancellation that comes in the same
    # turn of the loop as the result.
    for num_turns in range(80):
        store = backend.open()
        task = asyncio.create_task(store.list(""))
        for _ in range(num_turns):
            await asyncio.sleep(0)
        if task.cancel():
            await asyncio.wait([task])
            assert task.cancelled()
