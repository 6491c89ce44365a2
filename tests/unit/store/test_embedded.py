"""The embedded store over real gRPC on loopback: the suite, and what only it does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import grpc
import pytest

from baton.core.errors import UnauthenticatedError
from baton.store.base import WatchEvent
from baton.telemetry import rpc
from baton.v1 import store_pb2, store_pb2_grpc
from fakes.clock import ManualClock
from suites.embedded_backend import TOKEN, EmbeddedBackend
from suites.store import StoreSuite
from suites.store_tools import PATIENCE_S, logged, watching


@pytest.fixture
async def backend() -> AsyncIterator[EmbeddedBackend]:
    backend = EmbeddedBackend()
    await backend.start()
    yield backend
    await backend.close()


class TestEmbeddedStore(StoreSuite):
    pass


async def test_another_deployments_token_is_refused(
    backend: EmbeddedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "baton")
    store = backend.open(token="other")
    for operation in (store.put("k", b""), store.get("k"), store.list("")):
        with pytest.raises(UnauthenticatedError, match=r"127\.0\.0\.1.*--token-file"):
            await operation
    # A watch tries on, and says so once.
    async with watching(store, "") as watch:
        task = asyncio.create_task(watch.next())
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert logged(caplog) == ["store_down"]


async def test_a_slow_watcher_starts_again_and_ends_with_the_contents() -> None:
    backend = EmbeddedBackend(max_watch_events=4)
    await backend.start()
    store, writer = backend.open(), backend.open()
    await writer.put("w/old", b"0")
    # A reader that stops reading: gRPC's windows fill, then the watcher's queue.
    async with watching(store, "w/") as watch:
        await watch.until("synced")
        value = bytes(2**18)
        for i in range(200):
            await writer.put(f"w/{i % 10}", value + b"%d" % i)
        await writer.delete("w/old")
        await writer.put("w/end", b"")
        seen = await watch.until("put", "w/end")
        known = {"w/old": b"0"}
        for event in seen:
            if event.kind == "put":
                known[event.key] = event.value
            elif event.kind != "synced":
                del known[event.key]
        assert WatchEvent("synced") in [*seen, await watch.next()]
        assert known == await writer.list("w/")
        assert len(seen) < 200
    await backend.close()


async def test_watchers_of_callers_that_left_are_forgotten(backend: EmbeddedBackend) -> None:
    store = backend.open()
    async with watching(store, "") as a, watching(store, "") as b:
        await a.until("synced")
        await b.until("synced")
        assert backend.service.num_watchers() == 2
    async with asyncio.timeout(PATIENCE_S):
        while backend.service.num_watchers():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "request_", [store_pb2.PutRequest(), store_pb2.PutRequest(key="k", ttl_s=-1)]
)
async def test_a_client_that_checks_nothing_is_checked_by_the_server(
    backend: EmbeddedBackend, request_: store_pb2.PutRequest
) -> None:
    async with rpc.channel(f"127.0.0.1:{backend.port}", TOKEN) as channel:
        stub = store_pb2_grpc.StoreServiceStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Put(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_expiry_follows_the_servers_clock() -> None:
    clock = ManualClock()
    backend = EmbeddedBackend(clock=clock)
    await backend.start()
    store = backend.open()
    await store.put("lease", b"x", ttl_s=10)
    clock.advance(9.9)
    assert await store.get("lease") == b"x"
    await store.put("lease", b"x", ttl_s=10)
    clock.advance(9.9)
    assert await store.get("lease") == b"x"
    clock.advance(0.2)
    assert await store.get("lease") is None
    await backend.close()
