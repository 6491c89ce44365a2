"""The bundled Redis has a user for each service, and it can do what the service needs, no more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError

from baton_operator.resources.internal_secret import derived
from baton_operator.resources.pods.store_login import bundled_user
from baton_operator.rounds.redis_users import RedisUsers
from suites.redis_server import RedisServer

pytestmark = pytest.mark.redis

KEY = b"of this installation"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    server = RedisServer(password="admin-password")
    server.start()
    yield server
    server.stop()


@contextlib.asynccontextmanager
async def keeping(server: RedisServer) -> AsyncIterator[RedisUsers]:
    users = RedisUsers(f"redis://:{server.password}@127.0.0.1:{server.port}/0", KEY, check_s=0.2)
    task = asyncio.create_task(users.run())
    yield users
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def login(server: RedisServer, uid: str) -> AsyncIterator[Redis]:
    client = Redis(
        port=server.port,
        username=bundled_user(uid),
        password=derived(KEY, uid, "redis-password"),
        decode_responses=True,
        retry=Retry(NoBackoff(), 0),
    )
    yield client
    await client.aclose()


async def eventually_allowed(server: RedisServer, uid: str) -> None:
    async with asyncio.timeout(30), login(server, uid) as client:
        while True:
            try:
                await client.ping()
                return
            # An unknown user is one of these, too.
            except RedisConnectionError:
                await asyncio.sleep(0.05)


async def eventually_unknown(server: RedisServer, uid: str) -> None:
    async with asyncio.timeout(30):
        while True:
            async with login(server, uid) as client:
                with contextlib.suppress(RedisConnectionError):
                    await client.ping()
                    await asyncio.sleep(0.05)
                    continue
            return


async def test_a_services_user_reaches_its_own_keys_alone(server: RedisServer) -> None:
    async with keeping(server) as users:
        users.want("u1")
        users.want("u2")
        await eventually_allowed(server, "u1")
        await eventually_allowed(server, "u2")
        async with login(server, "u1") as client:
            await client.set("baton:u1:k:lease", "1")
            assert await client.get("baton:u1:k:lease") == "1"
            for refused in (
                client.get("baton:u2:k:lease"),
                client.set("other", "1"),
                client.flushall(),
                client.config_get("requirepass"),
                client.publish("baton:u2:events", "x"),
            ):
                with pytest.raises(NoPermissionError):
                    await refused


async def test_users_come_back_after_redis_forgot_them(server: RedisServer) -> None:
    async with keeping(server) as users:
        users.want("u1")
        await eventually_allowed(server, "u1")
        server.stop()
        server.start()
        await eventually_allowed(server, "u1")


async def test_a_user_that_is_there_is_not_made_again(server: RedisServer) -> None:
    async with keeping(server) as users:
        users.want("u1")
        await eventually_allowed(server, "u1")
        async with login(server, "u1") as client:
            subscription = client.pubsub()
            await subscription.subscribe("baton:u1:events")
            users.want("u2")
            await eventually_allowed(server, "u2")
            assert await subscription.check_health() is None
            await subscription.aclose()


async def test_users_of_services_that_are_gone_are_removed_once_all_are_known(
    server: RedisServer,
) -> None:
    async with keeping(server) as users:
        users.want("u1")
        users.want("u2")
        await eventually_allowed(server, "u2")
    async with keeping(server) as users:
        users.want("u1")
        await eventually_allowed(server, "u2")
        users.all_known()
        await eventually_unknown(server, "u2")
        await eventually_allowed(server, "u1")
        users.drop("u1")
        await eventually_unknown(server, "u1")
