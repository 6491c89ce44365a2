"""The embedded store over real gRPC on loopback: the suite, and what only it does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from baton.core.errors import ConfigError
from baton.store.base import StoreRefusesError, StoreUnavailableError, WatchEvent
from baton.store.embedded_server import EmbeddedStoreServer
from baton.telemetry import rpc
from baton.v1 import store_pb2, store_pb2_grpc
from fakes.clock import ManualClock
from suites.embedded_backend import TOKEN, EmbeddedBackend
from suites.limits import LimitSuite
from suites.store import StoreSuite
from suites.store_tools import PATIENCE_S, logged, watching, when_up


@pytest.fixture
async def backend() -> AsyncIterator[EmbeddedBackend]:
    backend = EmbeddedBackend()
    await backend.start()
    yield backend
    await backend.close()


class TestEmbeddedStore(StoreSuite):
    pass


class TestEmbeddedLimits(LimitSuite):
    pass


async def test_another_deployments_token_is_refused(
    backend: EmbeddedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "baton")
    store = backend.open(token="other")
    for operation in (store.put("k", b""), store.get("k"), store.list("")):
        with pytest.raises(StoreRefusesError, match=r"127\.0\.0\.1.*--token-file"):
            await operation
    # A watch tries on, and says so once.
    async with watching(store, "") as watch:
        task = asyncio.create_task(watch.next())
        while not logged(caplog):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        # Time for more tries.
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


async def test_lasting_entries_outlive_the_process_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "store.json"
    backend = EmbeddedBackend(file=file)
    await backend.start()
    store = backend.open()
    await store.put("auth/keys/a", b"\0\xff")
    await store.put("gone", b"1")
    await store.put("lease", b"2", ttl_s=600)
    assert await store.claim("claimed", b"3", None) is None
    await store.delete("gone")
    assert file.stat().st_mode & 0o777 == 0o600
    await backend.stop()
    await backend.start()
    await when_up(store)
    assert await store.list("") == {"auth/keys/a": b"\0\xff", "claimed": b"3"}
    await backend.close()


@pytest.mark.parametrize("content", ["", "{}", '{"version": 2, "entries": {}}', "[1]"])
def test_a_file_of_something_else_is_a_clear_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "store.json"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match=str(file)):
        EmbeddedStoreServer(file=file)


def test_a_file_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "store.json"
    file.write_text('{"version": 1, "entries": {}}')
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        EmbeddedStoreServer(file=file)


async def test_a_file_that_cannot_be_written_fails_the_write(tmp_path: Path) -> None:
    backend = EmbeddedBackend(file=tmp_path / "none" / "store.json")
    await backend.start()
    store = backend.open()
    with pytest.raises(StoreUnavailableError, match=r"store\.file cannot be written"):
        await store.put("k", b"")
    await store.put("lease", b"", ttl_s=5)
    await backend.close()
