"""From a URL to a store."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator

import pytest

from baton.core.errors import ConfigError
from baton.core.redact import redact_url
from baton.store.base import StoreRefusesError, StoreUnavailableError
from baton.store.connect import connect, open_store
from baton.store.embedded import EmbeddedStore
from baton.store.redis import RedisStore
from suites.embedded_backend import TOKEN, EmbeddedBackend
from suites.store_tools import logged


@pytest.fixture
async def backend() -> AsyncIterator[EmbeddedBackend]:
    backend = EmbeddedBackend()
    await backend.start()
    yield backend
    await backend.close()


async def test_a_grpc_url_is_the_embedded_store(backend: EmbeddedBackend) -> None:
    store = await connect(backend.url, TOKEN, "p")
    assert isinstance(store, EmbeddedStore)
    await store.put("k", b"1")
    assert await backend.open("p").get("k") == b"1"
    await store.close()


@pytest.mark.parametrize("url", ["redis://h:1/0", "rediss://u:p@h:1/0", "unix:///run/redis.sock"])
async def test_redis_urls_are_redis(url: str) -> None:
    store = open_store(url, TOKEN, "p")
    assert isinstance(store, RedisStore)
    await store.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "embedded",
        "localhost:1",
        "http://h:1",
        "grpc://",
        "grpc://h",
        "grpc://h:x",
        "grpc:/h:1",
        "grpc://u:p@h:1",
        "redis://h:port/0",
    ],
)
async def test_other_urls_are_refused_by_name(url: str) -> None:
    with pytest.raises(ConfigError, match=r"store\.url") as caught:
        open_store(url, TOKEN, "p")
    assert redact_url(url) in caught.value.message


async def test_the_embedded_store_is_only_in_the_gateway_that_has_it() -> None:
    with pytest.raises(ConfigError, match="prints the address"):
        await connect("embedded", TOKEN, "p")


async def test_a_wrong_token_fails_at_once(backend: EmbeddedBackend) -> None:
    with pytest.raises(StoreRefusesError, match="--token-file"):
        await connect(backend.url, "wrong", "p")


async def test_a_store_that_is_down_may_come_later(
    backend: EmbeddedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "baton.store")
    await backend.stop()
    store = await connect(backend.url, TOKEN, "p")
    assert logged(caplog) == ["store_down"]
    with pytest.raises(StoreUnavailableError, match=backend.url):
        await store.get("k")
    await store.close()


async def test_redis_that_is_down_may_come_later(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as reserve:
        reserve.bind(("127.0.0.1", 0))
        store = await connect(f"redis://:pw@127.0.0.1:{reserve.getsockname()[1]}/0", TOKEN, "p")
    assert logged(caplog) == ["store_down"]
    assert "pw" not in caplog.text
    await store.close()
