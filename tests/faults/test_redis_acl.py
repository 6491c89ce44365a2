"""The rules of `core.redis_acl` are enough for all that a deployment does, and for no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from baton.core.redis_acl import acl_rules
from baton.store.base import Store, StoreRefusesError, StoreUnavailableError
from baton.store.connect import connect
from baton.store.redis import RedisStore
from suites.limits import LimitSuite
from suites.redis_connections import open_connections
from suites.redis_server import RedisServer
from suites.store import StoreSuite
from suites.store_tools import logged, watching

pytestmark = pytest.mark.redis

PREFIX = "baton:0d2f5a52-8a3c-4a6f-9c55-2f6c2a1b7e10"
PREFIXES = ("p", "p2", PREFIX)


class AclBackend:
    """Each prefix has a user of its own, the default user nothing."""

    def __init__(self) -> None:
        self.server = RedisServer(password="root")
        self.url = self.server.url
        self._clients: list[RedisStore] = []

    def url_of(self, prefix: str, password: str = "pw") -> str:
        user = prefix.replace(":", "-")
        return self.server.url.replace("//", f"//{user}:{password}@")

    def open(self, prefix: str = "p", timeout_s: float = 5.0) -> Store:
        self.url = self.url_of(prefix).replace(":pw@", ":***@")
        client = RedisStore(self.url_of(prefix), prefix, timeout_s, rescan_s=0.1)
        self._clients.append(client)
        return client

    async def start(self) -> None:
        await asyncio.to_thread(self.server.start)
        with self.server.client as admin:
            for prefix in PREFIXES:
                user = prefix.replace(":", "-")
                admin.execute_command(
                    "ACL", "SETUSER", user, "reset", "on", ">pw", *acl_rules(prefix)
                )

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
async def backend() -> AsyncIterator[AclBackend]:
    backend = AclBackend()
    await backend.start()
    yield backend
    await backend.close()


class TestStoreOfAnAclUser(StoreSuite):
    pass


class TestLimitsOfAnAclUser(LimitSuite):
    pass


async def test_a_user_sees_nothing_of_another_deployment(backend: AclBackend) -> None:
    theirs = backend.open("p2")
    await theirs.put("k", b"secret")
    mine = RedisStore(backend.url_of(PREFIX), "p2")
    try:
        for operation in (
            mine.get("k"),
            mine.put("k", b""),
            mine.delete("k"),
            mine.list(""),
            mine.put_documents({"k": b""}, 60),
            mine.limit([]),
        ):
            with pytest.raises(StoreRefusesError):
                await operation
    finally:
        await mine.close()
    with Redis.from_url(backend.url_of(PREFIX)) as raw:
        for command in (
            ("KEYS", "*"),
            ("SCAN", "0"),
            ("FLUSHALL",),
            ("CONFIG", "GET", "*"),
            ("ACL", "LIST"),
            ("EVAL", "return 1", "0"),
            ("SUBSCRIBE", "p2:events"),
            ("PUBLISH", "p2:events", "x"),
        ):
            with pytest.raises(NoPermissionError):
                raw.execute_command(*command)
    assert await theirs.get("k") == b"secret"


async def test_a_watch_of_a_user_with_the_service_uid_as_prefix(backend: AclBackend) -> None:
    store = backend.open(PREFIX)
    async with watching(store, "workers/") as watch:
        await watch.until("synced")
        await store.put("workers/a", b"1", ttl_s=60)
        assert (await watch.next()).key == "workers/a"
    with backend.server.client as admin:
        assert all(key.startswith(PREFIX.encode() + b":") for key in admin.keys("*"))


async def test_a_password_that_is_changed_is_an_outage_and_no_client_is_told_where(
    backend: AclBackend, caplog: pytest.LogCaptureFixture
) -> None:
    store = backend.open()
    await store.put("k", b"1")
    async with watching(store, "") as watch:
        await watch.until("synced")
        with backend.server.client as admin:
            admin.execute_command("ACL", "SETUSER", "p", "resetpass", ">new")
            admin.execute_command("CLIENT", "KILL", "USER", "p")
        with pytest.raises(StoreUnavailableError):
            await store.get("k")
        with pytest.raises(StoreRefusesError) as caught:
            await store.get("k")
        assert str(backend.server.port) not in caught.value.message
        task = asyncio.create_task(watch.next())
        while "store_down" not in logged(caplog):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        with backend.server.client as admin:
            admin.execute_command("ACL", "SETUSER", "p", "resetpass", ">pw")
        assert (await task).key in ("k", "")


async def test_a_user_that_is_not_allowed_to_is_named_at_the_start(backend: AclBackend) -> None:
    with pytest.raises(StoreRefusesError, match="refuses us"):
        await connect(backend.url_of("p"), "token", "another")
