"""What has no TTL of its own goes some time after the last gateway, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from baton.store.limits import Charge, Limit, LimitKind, LimitStep, Verb
from baton.store.redis import RedisStore
from suites.redis_server import RedisServer
from suites.store_tools import PATIENCE_S, watching

pytestmark = pytest.mark.redis

LASTING = {
    b"p:k:auth/keys/1",
    b"p:limit:budget",
    b"p:index",
    b"p:version",
    b"p:lasting",
}
FOR_EVER = -1


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(server.url) as redis:
        yield redis


async def fill(server: RedisServer) -> None:
    """A lease, a key, a document and a budget for ever, written by who knows of no TTL."""
    store = RedisStore(server.url, "p")
    await store.put("workers/a", b"1", ttl_s=600)
    await store.put("auth/keys/1", b"2")
    await store.put_documents({"record": b"3"}, 600)
    budget = Limit("budget", LimitKind.TOTAL, 100, 0)
    await store.limit([LimitStep(Verb.TAKE, "", (Charge(budget, 1),))])
    await store.close()


async def watched_once(server: RedisServer, lasting_ttl_s: float | None) -> None:
    store = RedisStore(server.url, "p", lasting_ttl_s=lasting_ttl_s)
    async with watching(store, "") as watch:
        await watch.until("synced")
    await store.close()


async def ttls(redis: Redis) -> dict[bytes, int]:
    """Milliseconds by key."""
    return {key: await redis.pttl(key) for key in await redis.keys("*")}


async def test_everything_has_a_ttl_once_a_gateway_has_watched(
    server: RedisServer, redis: Redis
) -> None:
    await fill(server)
    assert {key for key, ttl in (await ttls(redis)).items() if ttl == FOR_EVER} == LASTING
    await watched_once(server, 3600.0)
    found = await ttls(redis)
    assert {key for key, ttl in found.items() if 1_800_000 < ttl <= 3_600_000} == LASTING
    assert all(0 < ttl <= 600_000 for key, ttl in found.items() if key not in LASTING)
    # Without the setting they are to stay again.
    await watched_once(server, None)
    assert {key for key, ttl in (await ttls(redis)).items() if ttl == FOR_EVER} == LASTING


async def test_a_watch_renews_and_after_the_last_one_everything_goes(
    server: RedisServer, redis: Redis
) -> None:
    await fill(server)
    store = RedisStore(server.url, "p", rescan_s=0.02, lasting_ttl_s=5.0)
    async with watching(store, "") as watch:
        await watch.until("synced")
        for key in LASTING:
            await redis.pexpire(key, 60_000)
        # It is renewed each half second, by a watch that is waited for.
        waiting = asyncio.create_task(watch.next())
        async with asyncio.timeout(PATIENCE_S):
            while max([await redis.pttl(key) for key in LASTING]) > 5_000:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    await store.close()
    await redis.delete("p:k:workers/a", "p:d:record")
    await watched_once(server, 0.3)
    async with asyncio.timeout(PATIENCE_S):
        while await redis.keys("*"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_what_gets_a_ttl_no_longer_lasts(server: RedisServer, redis: Redis) -> None:
    store = RedisStore(server.url, "p", lasting_ttl_s=3600.0)
    for number, end in enumerate(("put", "claim", "delete")):
        key = f"k{number}"
        await store.put(key, b"1")
        if end == "put":
            await store.put(key, b"1", ttl_s=60)
        elif end == "claim":
            assert await store.claim(key, b"1", 60) is None
        else:
            await store.delete(key)
    await store.close()
    await watched_once(server, 3600.0)
    assert await redis.zrange("p:lasting", 0, -1) == []
    for name in ("k0", "k1"):
        assert 0 < await redis.pttl(f"p:k:{name}") <= 60_000
