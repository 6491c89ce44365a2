"""Two gateways with keys and limits in one Redis: shared exactly, and while it is down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from baton.gateway.context import Context
from baton.gateway.keys import limit_pipe
from baton.gateway.keys.admin import revoke_key
from baton.store.base import Store, StoreUnavailableError
from baton.store.redis import RedisStore
from fakes.gateway import asgi_client, text_tokens
from fakes.generator import FakeGenerator
from fakes.keyed_gateway import keyed_context, known, make_key
from fakes.until import until
from suites.redis_server import RedisServer
from suites.store_tools import PATIENCE_S, when_up

pytestmark = pytest.mark.redis

BODY = {"model": "tiny", "prompt": "hi", "max_tokens": 4}


class Service:
    """Two gateways and their Redis."""

    def __init__(self) -> None:
        self.redis = RedisServer()
        self._stack = AsyncExitStack()

    async def start(self, **settings: Any) -> None:
        self.redis.start()
        self.stores: list[Store] = []
        self.contexts: list[Context] = []
        self.clients: list[httpx.AsyncClient] = []
        for _ in range(2):
            store = RedisStore(self.redis.url, "baton")
            self._stack.push_async_callback(store.close)
            generator = FakeGenerator(lambda *_: text_tokens("ok"))
            context = await self._stack.enter_async_context(
                keyed_context(store, generator, **settings)
            )
            self.stores.append(store)
            self.contexts.append(context)
            self.clients.append(await self._stack.enter_async_context(asgi_client(context)))

    async def key(self, **limits: Any) -> str:
        """One that both gateways know."""
        key, _ = await make_key(self.contexts[0], **limits)
        await known(self.contexts[1], key)
        return key

    async def post(self, gateway: int, key: str) -> httpx.Response:
        headers = {"x-api-key": key}
        return await self.clients[gateway].post("/v1/completions", json=BODY, headers=headers)

    async def close(self) -> None:
        await self._stack.aclose()
        self.redis.stop()


async def asks_the_store(context: Context) -> None:
    """Wait until a failure is so long ago that limits are asked of the store again."""
    assert context.access is not None
    pipe = context.access.limits._pipe
    await until(lambda: not pipe.is_down)


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    monkeypatch.setattr(limit_pipe, "PAUSE_S", 0.1)
    service = Service()
    yield service
    await service.close()


async def test_the_limits_of_a_key_hold_across_gateways(service: Service) -> None:
    await service.start(limits_timeout_s=10)
    key = await service.key(rpm=30)
    answers = await asyncio.gather(*(service.post(i % 2, key) for i in range(80)))
    assert sorted(answer.status_code for answer in answers) == [200] * 30 + [429] * 50


async def test_a_key_revoked_at_one_gateway_is_refused_at_the_other(service: Service) -> None:
    await service.start()
    key, record = await make_key(service.contexts[0])
    await known(service.contexts[1], key)
    await revoke_key(service.stores[0], record.id, "me")
    for gateway in (0, 1):
        async with asyncio.timeout(PATIENCE_S):
            while (await service.post(gateway, key)).status_code != 401:  # noqa: ASYNC110
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_serving_goes_on_without_redis_and_limits_are_counted_by_each_gateway(
    service: Service, fault: str
) -> None:
    await service.start(limits_timeout_s=1.0)
    key, free = await service.key(rpm=3), await service.key()
    assert (await service.post(0, key)).status_code == 200
    if fault == "killed":
        service.redis.stop()
    else:
        service.redis.freeze()
    statuses = [(await service.post(0, key)).status_code for _ in range(5)]
    # What the store knew of the minute is unknown now.
    assert statuses == [200, 200, 200, 429, 429]
    assert (await service.post(0, free)).status_code == 200
    assert (await service.post(1, free)).status_code == 200
    wrong = await service.post(0, "sk-baton-wrong")
    assert wrong.status_code == 401
    # Back, and empty: keys that were known stay valid, limits are shared again.
    service.redis.stop()
    service.redis.start()
    await when_up(service.stores[0])
    await when_up(service.stores[1])
    for context in service.contexts:
        await asks_the_store(context)
    other = await service.key(rpm=2)
    answers = [await service.post(i % 2, other) for i in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert (await service.post(0, free)).status_code == 200


async def test_limits_that_fail_closed_refuse_only_keys_that_have_some(service: Service) -> None:
    await service.start(limits_timeout_s=0.2, limits_when_store_down="closed")
    key, free = await service.key(rpm=3), await service.key()
    service.redis.stop()
    refused = await service.post(0, key)
    assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
    assert (await service.post(0, free)).status_code == 200
    service.redis.start()
    await when_up(service.stores[0])
    async with asyncio.timeout(PATIENCE_S):
        while (await service.post(0, key)).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_gateway_that_starts_without_redis_lets_nobody_in_before_it_knows_the_keys(
    service: Service,
) -> None:
    await service.start()
    key = await service.key()
    service.redis.stop()
    with pytest.raises(StoreUnavailableError):
        await service.stores[0].get("ping")
    store = RedisStore(service.redis.url, "baton")
    generator = FakeGenerator(lambda *_: text_tokens("ok"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3), keyed_context(store, generator):
            pass
    await store.close()
    assert (await service.post(0, key)).status_code == 200
