"""Weights of revisions: set at one gateway, followed by all, kept while the store is away."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from baton.gateway.traffic import KEY, Traffic
from baton.router.pool import Pool
from baton.store.base import Store, StoreUnavailableError
from fakes.memory_store import MemoryStore
from fakes.routing import lease
from fakes.until import until
from suites.embedded_backend import EmbeddedBackend


class Gateway:
    """What a gateway has of it, with a worker of each of two revisions."""

    def __init__(self, store: Store) -> None:
        self.pool = Pool()
        for number in (1, 2):
            self.pool.set_up(self.pool.add(lease(f"a{number}", revision=f"r{number}")), True)
        self.num_changes = 0
        self.traffic = Traffic(store, self.pool, self.changed)

    def changed(self) -> None:
        self.num_changes += 1

    @property
    def shares(self) -> dict[str, float]:
        return self.traffic.shares("m")


@asynccontextmanager
async def gateway(store: Store) -> AsyncIterator[Gateway]:
    found = Gateway(store)
    found.traffic.start()
    try:
        yield found
    finally:
        await found.traffic.close()


EQUAL = {"r1": 0.5, "r2": 0.5}


async def test_every_gateway_follows_and_one_that_starts_later_too() -> None:
    store = MemoryStore()
    async with gateway(store) as one, gateway(store) as two:
        assert one.shares == two.shares == EQUAL
        await one.traffic.set({"r1": 9, "r2": 1}, None)
        assert one.shares == {"r1": 0.9, "r2": 0.1}
        await until(lambda: two.shares == one.shares)
        async with gateway(store) as three:
            await until(lambda: three.shares == one.shares)
        await two.traffic.set({}, None)
        await until(lambda: one.shares == EQUAL)
        assert await store.get(KEY) is None
        # Its own change comes back by the watch, and is none.
        assert one.num_changes == 2


async def test_weights_with_a_ttl_are_forgotten() -> None:
    backend = EmbeddedBackend()
    await backend.start()
    try:
        async with gateway(backend.open()) as one:
            await one.traffic.set({"r2": 1}, 0.05)
            assert one.shares == {"r1": 0.0, "r2": 1.0}
            await until(lambda: one.shares == EQUAL)
    finally:
        await backend.close()


async def test_a_store_that_is_away_changes_nothing() -> None:
    store = MemoryStore()
    async with gateway(store) as one:
        await one.traffic.set({"r1": 1}, None)
        store.is_down = True
        with pytest.raises(StoreUnavailableError):
            await one.traffic.set({"r2": 1}, None)
        assert one.shares == {"r1": 1.0, "r2": 0.0}


@pytest.mark.parametrize(
    "value", [b"", b"[]", b'{"weights": {"r1": -1}}', b'{"weights": {"r1": "NaN"}}', b"\xff"]
)
async def test_what_makes_no_sense_is_left_alone(
    value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    store = MemoryStore()
    async with gateway(store) as one:
        await one.traffic.set({"r1": 1}, None)
        await store.put(KEY, value)
        await until(lambda: "bad_traffic_weights" in caplog.text)
        assert one.shares == {"r1": 1.0, "r2": 0.0}
        await store.put(KEY, b'{"weights": {"r2": 1}, "by": "a newer version"}')
        await until(lambda: one.shares == {"r1": 0.0, "r2": 1.0})
