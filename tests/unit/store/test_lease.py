"""The thread that keeps a lease alive."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from baton.core.errors import ConfigError
from baton.store.base import WatchEvent
from baton.store.lease import Holder, LeaseKeeper
from fakes.clock import ManualClock
from suites.embedded_backend import TOKEN, EmbeddedBackend
from suites.store_tools import PATIENCE_S, logged, watching

KEY = "workers/w1"


@pytest.fixture
async def backend() -> AsyncIterator[EmbeddedBackend]:
    backend = EmbeddedBackend()
    await backend.start()
    yield backend
    await backend.close()


class Others:
    """What a look at other holders finds, and whom the keeper has lost its key to."""

    def __init__(self, found: Holder = Holder.LIVES) -> None:
        self.found = found
        self.seen: list[bytes] = []
        self.lost: list[bytes] = []

    async def look(self, holder: bytes) -> Holder:
        self.seen.append(holder)
        return self.found


def _keeper(
    url: str,
    value: Callable[[], bytes] = lambda: b"lease",
    ttl_s: float = 600,
    renew_s: float = 0.02,
    others: Others | None = None,
) -> LeaseKeeper:
    others = others or Others()
    return LeaseKeeper(url, TOKEN, "p", KEY, value, others.look, others.lost.append, ttl_s, renew_s)


async def _registered(keeper: LeaseKeeper) -> None:
    assert await asyncio.to_thread(keeper.wait_registered, PATIENCE_S)


async def test_a_lease_is_there_until_it_is_stopped(backend: EmbeddedBackend) -> None:
    store = backend.open()
    keeper = _keeper(backend.url)
    async with watching(store, "workers/") as watch:
        await watch.until("synced")
        await asyncio.to_thread(keeper.start)
        assert await watch.next() == WatchEvent("put", KEY, b"lease")
        await asyncio.to_thread(keeper.stop)
        assert await watch.next() == WatchEvent("deleted", KEY)
    await asyncio.to_thread(keeper.stop)
    assert not any(thread.name == f"lease-{KEY}" for thread in threading.enumerate())


async def test_a_lease_may_be_left_to_its_ttl(backend: EmbeddedBackend) -> None:
    keeper = _keeper(backend.url)
    await asyncio.to_thread(keeper.start)
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

    keeper = _keeper(backend.url, value, ttl_s=10)
    await asyncio.to_thread(keeper.start)
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
    keeper = _keeper(backend.url, lambda: value, renew_s=500)
    async with watching(backend.open(), KEY) as watch:
        await watch.until("synced")
        await asyncio.to_thread(keeper.start)
        assert (await watch.next()).value == b"1"
        value = b"2"
        keeper.update()
        assert (await watch.next()).value == b"2"
    await asyncio.to_thread(keeper.stop)


async def test_a_lease_returns_to_a_store_that_lost_it(
    backend: EmbeddedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "baton.store.lease")
    keeper = _keeper(backend.url)
    await asyncio.to_thread(keeper.start)
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
    keeper = _keeper(backend.url)
    await asyncio.to_thread(keeper.start)
    assert not await asyncio.to_thread(keeper.wait_registered, 0.05)
    await backend.start()
    await _registered(keeper)
    await asyncio.to_thread(keeper.stop)


async def test_a_keeper_stops_while_the_store_is_down(backend: EmbeddedBackend) -> None:
    keeper = _keeper(backend.url)
    await asyncio.to_thread(keeper.start)
    await _registered(keeper)
    await backend.stop()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.to_thread(keeper.stop)


async def test_a_wrong_url_is_an_error_at_the_start() -> None:
    keeper = _keeper("http://here")
    with pytest.raises(ConfigError, match="http://here"):
        keeper.start()
    keeper.stop()


def test_a_keeper_that_never_started_stops() -> None:
    _keeper("grpc://127.0.0.1:1").stop()


async def test_a_key_of_a_living_holder_is_left_alone(backend: EmbeddedBackend) -> None:
    store = backend.open()
    await store.put(KEY, b"other", 600)
    others = Others(Holder.LIVES)
    keeper = _keeper(backend.url, others=others)
    assert await asyncio.to_thread(keeper.start) == b"other"
    await asyncio.to_thread(keeper.stop)
    assert await store.get(KEY) == b"other"
    assert others.seen == [b"other"] and not others.lost


async def test_a_dead_holder_is_replaced_at_once(backend: EmbeddedBackend) -> None:
    store = backend.open()
    await store.put(KEY, b"other", 600)
    keeper = _keeper(backend.url, others=Others(Holder.GONE))
    assert await asyncio.to_thread(keeper.start) is None
    assert await store.get(KEY) == b"lease"
    await asyncio.to_thread(keeper.stop)


async def test_a_silent_holders_lease_is_waited_out(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    backend = EmbeddedBackend(clock=clock)
    await backend.start()
    store, others = backend.open(), Others(Holder.SILENT)
    await store.put(KEY, b"other", 10)
    keeper = _keeper(backend.url, others=others)
    starting = asyncio.create_task(asyncio.to_thread(keeper.start))
    while len(others.seen) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    clock.advance(11)
    assert await starting is None
    assert await store.get(KEY) == b"lease"
    await asyncio.to_thread(keeper.stop)
    await backend.close()
    assert logged(caplog).count("lease_held") == 1


async def test_a_silent_holder_that_renews_its_lease_lives(backend: EmbeddedBackend) -> None:
    # No renewal is needed: the lease outlives what the keeper would wait for its own.
    await backend.open().put(KEY, b"other", 600)
    keeper = _keeper(backend.url, ttl_s=0.1, others=Others(Holder.SILENT))
    assert await asyncio.to_thread(keeper.start) == b"other"
    assert await backend.open().get(KEY) == b"other"


async def test_of_two_keepers_one_gets_the_key(backend: EmbeddedBackend) -> None:
    keepers = [_keeper(backend.url, lambda name=name: name) for name in (b"a", b"b")]  # type: ignore[misc]
    a, b = await asyncio.gather(*(asyncio.to_thread(keeper.start) for keeper in keepers))
    held = await backend.open().get(KEY)
    assert (a, b, held) in ((None, b"a", b"a"), (b"b", None, b"b"))
    for keeper in keepers:
        await asyncio.to_thread(keeper.stop)
    assert await backend.open().get(KEY) is None


async def test_a_keeper_that_comes_back_to_a_younger_holder_ends(backend: EmbeddedBackend) -> None:
    others = Others(Holder.LIVES)
    keeper = _keeper(backend.url, others=others)
    assert await asyncio.to_thread(keeper.start) is None
    store = backend.open()
    await store.put(KEY, b"younger", 600)
    async with asyncio.timeout(PATIENCE_S):
        while not others.lost:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await asyncio.to_thread(keeper.stop)
    assert others.lost == [b"younger"]
    assert await store.get(KEY) == b"younger"


async def test_a_stopped_keeper_deletes_no_other_lease(backend: EmbeddedBackend) -> None:
    keeper = _keeper(backend.url, renew_s=500)
    assert await asyncio.to_thread(keeper.start) is None
    await backend.open().put(KEY, b"younger", 600)
    await asyncio.to_thread(keeper.stop)
    assert await backend.open().get(KEY) == b"younger"
