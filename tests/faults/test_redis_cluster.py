"""The Redis store in a real Redis Cluster: the suites on one node, failover among six."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import RedisCluster

from baton.core.redis_acl import acl_rules
from baton.store.base import Store, StoreRefusesError, StoreUnavailableError, WatchEvent
from baton.store.redis import RedisStore
from suites.limits import LimitSuite
from suites.redis_connections import open_connections
from suites.redis_groups import ClusterServers
from suites.store import StoreSuite
from suites.store_tools import watching, when_up

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def one_node() -> Iterator[ClusterServers]:
    servers = ClusterServers(1)
    servers.create()
    yield servers
    servers.close()


class ClusterBackend:
    """One node with all slots. It takes seconds to start, so tests share it, emptied."""

    def __init__(self, servers: ClusterServers) -> None:
        self.servers = servers
        self.url = servers.url
        self._clients: list[RedisStore] = []

    def open(self, prefix: str = "p", timeout_s: float = 5.0) -> Store:
        client = RedisStore(self.url, prefix, timeout_s, rescan_s=0.1)
        self._clients.append(client)
        return client

    async def start(self) -> None:
        await asyncio.to_thread(self._start)

    def _start(self) -> None:
        (node,) = self.servers.nodes
        if not node.is_running:
            node.start()
        self.servers.wait_ok()
        with node.client as client:
            client.flushall()

    async def stop(self) -> None:
        await asyncio.to_thread(self.servers.nodes[0].stop)

    async def freeze(self) -> None:
        self.servers.nodes[0].freeze()

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        # Continued, where a test froze it; else left for the next one.
        self.servers.nodes[0].unfreeze()
        assert open_connections() == []


@pytest.fixture
async def backend(one_node: ClusterServers) -> AsyncIterator[ClusterBackend]:
    backend = ClusterBackend(one_node)
    await backend.start()
    yield backend
    await backend.close()


class TestClusterStore(StoreSuite):
    pass


class TestClusterLimits(LimitSuite):
    pass


async def test_all_keys_of_a_deployment_are_in_one_slot(backend: ClusterBackend) -> None:
    store = backend.open("mine")
    await store.put("workers/a", b"1", ttl_s=60)
    await store.put_documents({"doc": b"2"}, 60)
    async with RedisCluster.from_url(backend.servers.url_of("").replace("+cluster", "")) as redis:
        keys = await redis.keys("*")
        slots = {redis.keyslot(key) for key in keys}
    assert len(slots) == 1
    assert b"{mine}:k:workers/a" in keys and b"{mine}:d:doc" in keys


async def test_a_user_of_one_deployment_suffices_and_sees_no_other(backend: ClusterBackend) -> None:
    with backend.servers.nodes[0].client as admin:
        admin.execute_command(
            "ACL", "SETUSER", "one", "reset", "on", ">pw", *acl_rules("p", cluster=True)
        )
    store = RedisStore(backend.servers.url_of("one:pw@"), "p", rescan_s=0.1)
    other = RedisStore(backend.servers.url_of("one:pw@"), "p2")
    try:
        async with watching(store, "") as watch:
            await watch.until("synced")
            await store.put("k", b"1")
            assert await watch.next() == WatchEvent("put", "k", b"1")
        with pytest.raises(StoreRefusesError):
            await other.get("k")
    finally:
        await store.close()
        await other.close()


async def test_closing_a_store_that_lost_its_cluster_closes_all_connections(
    one_node: ClusterServers, backend: ClusterBackend
) -> None:
    store = RedisStore(one_node.url, "p")
    await store.put("k", b"1")
    await backend.stop()
    with pytest.raises(StoreUnavailableError):
        await store.get("k")
    await store.close()
    assert open_connections() == []


@pytest.fixture
def six_nodes() -> Iterator[ClusterServers]:
    servers = ClusterServers(3, replicas=True)
    servers.create()
    yield servers
    servers.close()
    assert open_connections() == []


async def test_a_watch_and_its_writer_follow_the_slot_to_the_replica(
    six_nodes: ClusterServers,
) -> None:
    store = RedisStore(six_nodes.url, "p", rescan_s=0.2)
    owner = six_nodes.owner("{p}")
    try:
        await store.put("before", b"1")
        async with watching(store, "") as watch:
            await watch.until("synced")
            owner.stop()
            await when_up(store)
            await store.put("after", b"2")
            seen = await watch.until("put", "after")
            assert seen[-1] == WatchEvent("put", "after", b"2")
    finally:
        await store.close()
