"""The thread that keeps a lease alive."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable

import pytest
from baton.core.clock import ManualClock
from baton.core.errors import ConfigError
from baton.store.base import WatchEvent
from baton.store.lease import LeaseKeeper
from suites.embedded_backend import TOKEN, EmbeddedBackend
from suites.store_tools import PATIENCE_S, logged, watching

KEY = "workers/w1"


@pytest.fixture
async def backend() -> AsyncIterator[EmbeddedBackend]:
    backend = EmbeddedBackend()
    await backend.start()
    yield backend
    await backend.close()


def _keeper(
    backend: EmbeddedBackend,
    value: Callable[[], bytes] = lambda: b"lease",
    ttl_s: float = 600,
    renew_s: float = 0.02,
) -> LeaseKeeper:
    return LeaseKeeper(backend.url, TOKEN, "p", KEY, value, ttl_s, renew_s)


async def _registered(keeper: LeaseKeeper) -> None:
    assert await asyncio.to_thread(keeper.wait_registered, PATIENCE_S)


async def test_a_lease_is_there_until_it_is_stopped(backend: EmbeddedBackend) -> None:
    store = backend.open()
    keeper = _keeper(backend)
    async with watching(store, "workers/") as watch:
        await watch.until("synced")
        keeper.start()
        assert await watch.next() == WatchEvent("put", KEY, b"lease")
        await asyncio.to_thread(keeper.stop)
        assert await watch.next() == WatchEvent("deleted", KEY)
    await asyncio.to_thread(keeper.stop)
    assert not any(thread.name == f"lease-{KEY}" for thread in threading.enumerate())


async def test_a_lease_may_be_left_to_its_ttl(backend: EmbeddedBackend) -> None:
    keeper = _keeper(backend)
    keeper.start()
    await _registered(keeper)
    await asyncio.to_thread(keeper.stop, delete=False)
    assert await backend.open().get(KEY) == b"lease"


async def test_a_lease_is_renewed_before_it_runs_out() -> None:
    clock = ManualClock()
    backend = EmbeddedBackend(clock=clock)
    await backend.start()
    num_values = 0

    def value() -> bytes:
        nonlocal num_values
        num_values += 1
        return b"lease"

    keeper = _keeper(backend, value, ttl_s=10)
    keeper.start()
    for _ in range(3):
        # Two more values: a write that began after the clock moved has been taken.
        seen = num_values
        while num_values < seen + 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert await backend.open().get(KEY) == b"lease"
        clock.advance(8)
    await asyncio.to_thread(keeper.stop)
    await backend.close()


async def test_an_update_is_written_at_once(backend: EmbeddedBackend) -> None:
    value = b"1"
    keeper = _keeper(backend, lambda: value, renew_s=500)
    async with watching(backend.open(), KEY) as watch:
        await watch.until("synced")
        keeper.start()
        assert (await watch.next()).value == b"1"
        value = b"2"
        keeper.update()
        assert (await watch.next()).value == b"2"
    await asyncio.to_thread(keeper.stop)


async def test_a_lease_returns_to_a_store_that_lost_it(
    backend: EmbeddedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "baton.store.lease")
    keeper = _keeper(backend)
    keeper.start()
    await _registered(keeper)
    await backend.stop()
    while "store_down" not in logged(caplog):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await backend.start()
    async with watching(backend.open(), KEY) as watch:
        await watch.until("put", KEY)
    await asyncio.to_thread(keeper.stop)
    assert logged(caplog).count("store_down") == 1


async def test_a_keeper_may_start_before_the_store(backend: EmbeddedBackend) -> None:
    await backend.stop()
    keeper = _keeper(backend)
    keeper.start()
    assert not await asyncio.to_thread(keeper.wait_registered, 0.05)
    await backend.start()
    await _registered(keeper)
    await asyncio.to_thread(keeper.stop)


async def test_a_keeper_stops_while_the_store_is_down(backend: EmbeddedBackend) -> None:
    keeper = _keeper(backend)
    keeper.start()
    await _registered(keeper)
    await backend.stop()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.to_thread(keeper.stop)


async def test_a_wrong_url_is_an_error_at_the_start() -> None:
    keeper = LeaseKeeper("http://here", TOKEN, "p", KEY, lambda: b"", 10, 2)
    with pytest.raises(ConfigError, match="http://here"):
        keeper.start()
    keeper.stop()


def test_a_keeper_that_never_started_stops() -> None:
    LeaseKeeper("grpc://127.0.0.1:1", TOKEN, "p", KEY, lambda: b"", 10, 2).stop()
