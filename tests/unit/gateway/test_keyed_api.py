"""API keys over HTTP: the SDKs' errors, scopes, limits' headers, tenants, floods of wrong keys."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from baton.core.api_key import Scope, draw_key
from baton.core.errors import WorkerLostError
from baton.core.request import FinishReason
from baton.core.settings import GatewaySettings
from baton.gateway.context import Context
from baton.gateway.keys.access import open_access
from baton.gateway.keys.admin import create_key, revoke_key
from baton.gateway.keys.stored import KeyLimits, KeyRecord
from fakes.gateway import asgi_client, http_server, make_context, text_tokens
from fakes.generator import FakeGenerator
from fakes.keyed_gateway import keyed_context, limit_tenant, make_key
from fakes.until import until
from suites.embedded_backend import EmbeddedBackend

TEXT = "hello world"
HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
CHAT = {"model": "tiny", "messages": HI, "max_tokens": 8}


@pytest.fixture
async def backend() -> AsyncIterator[EmbeddedBackend]:
    backend = EmbeddedBackend()
    await backend.start()
    yield backend
    await backend.close()


@pytest.fixture
def generator() -> FakeGenerator:
    return FakeGenerator(lambda *_: text_tokens(TEXT))


@pytest.fixture
async def context(backend: EmbeddedBackend, generator: FakeGenerator) -> AsyncIterator[Context]:
    async with keyed_context(backend.open(), generator) as context:
        yield context


@asynccontextmanager
async def sdk(url: str, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        yield client


async def chat(client: openai.AsyncOpenAI, **more: Any) -> Any:
    return await client.chat.completions.create(model="tiny", messages=HI, max_tokens=8, **more)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


# --- keys ---


async def test_a_key_lets_the_sdk_in_and_a_wrong_one_is_openais_401(context: Context) -> None:
    key, _ = await make_key(context)
    async with http_server(context) as url:
        async with sdk(url, key) as client:
            answer = await chat(client)
            assert answer.choices[0].message.content == TEXT
            assert [model.id async for model in client.models.list()] == ["tiny"]
        for wrong in ("sk-proj-nothing-of-ours", draw_key().key, key[:-3] + "AAA"):
            async with sdk(url, wrong) as client:
                with pytest.raises(openai.AuthenticationError) as caught:
                    await chat(client)
            assert caught.value.status_code == 401
            body: Any = caught.value.body
            assert body["code"] == "invalid_api_key" and body["type"] == "invalid_request_error"
            assert body["param"] is None and body["message"].startswith("Incorrect API key")
            assert wrong not in str(caught.value)


async def test_a_call_without_a_key_is_told_how(context: Context) -> None:
    async with asgi_client(context) as client:
        for headers in ({}, {"authorization": "Basic YTpi"}, {"authorization": "Bearer "}):
            answer = await client.post("/v1/chat/completions", json=CHAT, headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["message"].startswith("You didn't provide an API key.")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["x-request-id"]


async def test_x_api_key_does_as_well(context: Context) -> None:
    key, _ = await make_key(context)
    async with asgi_client(context) as client:
        answer = await client.post("/v1/chat/completions", json=CHAT, headers={"x-api-key": key})
        assert answer.status_code == 200


async def test_a_revoked_key_is_refused_and_its_running_request_goes_on(
    backend: EmbeddedBackend,
) -> None:
    by_hand = FakeGenerator()
    async with keyed_context(backend.open(), by_hand) as context, asgi_client(context) as client:
        key, record = await make_key(context)
        call = client.post("/v1/chat/completions", json=CHAT, headers=bearer(key))
        running = asyncio.create_task(call)
        ticket = await by_hand.submitted()
        await revoke_key(backend.open(), record.id, "me")
        async with asyncio.timeout(30):
            while (await client.get("/v1/models", headers=bearer(key))).status_code != 401:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        refusal = await client.post("/v1/chat/completions", json=CHAT, headers=bearer(key))
        assert refusal.status_code == 401 and "revoked" in refusal.json()["error"]["message"]
        tokens = text_tokens(TEXT)
        for token in tokens[:-1]:
            ticket.feed(token)
        ticket.feed(tokens[-1], FinishReason.LENGTH)
        assert (await running).json()["choices"][0]["message"]["content"] == TEXT


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/openapi.json"])
async def test_probes_and_metrics_need_no_key(context: Context, path: str) -> None:
    async with asgi_client(context) as client:
        assert (await client.get(path)).status_code == 200


async def test_metrics_may_be_closed(backend: EmbeddedBackend, generator: FakeGenerator) -> None:
    async with (
        keyed_context(backend.open(), generator, metrics_need_key=True) as context,
        asgi_client(context) as client,
    ):
        key, _ = await make_key(context, Scope.READ)
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers=bearer(key))).status_code == 200


# (method, path) to the scopes that may.
RULES = {
    ("POST", "/v1/chat/completions"): {Scope.INFERENCE},
    ("POST", "/v1/completions"): {Scope.INFERENCE},
    ("POST", "/v1/baton/prefetch"): {Scope.INFERENCE},
    ("POST", "/v1/anything"): {Scope.INFERENCE},
    ("POST", "/v1/responses"): {Scope.INFERENCE},
    ("GET", "/v1/responses/resp_1"): {Scope.INFERENCE},
    ("POST", "/v1/messages"): {Scope.INFERENCE},
    ("POST", "/tokenize"): {Scope.INFERENCE},
    ("GET", "/v1/models"): {Scope.INFERENCE, Scope.READ, Scope.ADMIN},
    ("GET", "/v1/baton/workers"): {Scope.READ, Scope.ADMIN},
    ("GET", "/v1/baton/requests"): {Scope.READ, Scope.ADMIN},
    ("GET", "/v1/baton/keys"): {Scope.READ, Scope.ADMIN},
    ("POST", "/v1/baton/keys"): {Scope.ADMIN},
    ("DELETE", "/v1/baton/keys/abc"): {Scope.ADMIN},
    ("POST", "/v1/baton/anything"): {Scope.ADMIN},
}


@pytest.mark.parametrize("scope", list(Scope))
async def test_scopes(context: Context, scope: Scope) -> None:
    key, _ = await make_key(context, scope)
    async with asgi_client(context) as client:
        for (method, path), allowed in RULES.items():
            assert (await client.request(method, path)).status_code == 401
            answer = await client.request(method, path, headers=bearer(key), content=b"")
            if scope in allowed:
                assert answer.status_code not in (401, 403), (method, path)
            else:
                assert answer.status_code == 403, (method, path)
                message = answer.json()["error"]["message"]
                assert f"This API key has: {scope.value}" in message


async def test_before_the_keys_are_known_nobody_is_let_in(generator: FakeGenerator) -> None:
    backend = EmbeddedBackend()
    await backend.start()
    store = backend.open()
    await backend.stop()
    settings = GatewaySettings(host="0.0.0.0")
    context = make_context(generator, settings)
    async with (
        open_access(store, settings, context.metrics) as context.access,
        asgi_client(context) as client,
    ):
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        await backend.start()
        access = context.access
        assert access is not None
        await until(lambda: access.auth.shortage() is None)
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
    await backend.close()


async def test_elsewhere_than_loopback_it_warns_and_asks_once_there_is_a_key(
    backend: EmbeddedBackend, generator: FakeGenerator, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        keyed_context(backend.open(), generator, auth="auto", host="0.0.0.0") as context,
        asgi_client(context) as client,
    ):
        await until(lambda: "open_to_the_network" in caplog.text)
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        record = await make_key_elsewhere(backend, context)
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 401
        # The last key going away does not open it again.
        await backend.open().delete(record.store_key)
        await until(lambda: _num_keys(context) == 0)
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 401


async def make_key_elsewhere(backend: EmbeddedBackend, context: Context) -> KeyRecord:
    """As `baton keys create` does, for a gateway that does not ask for keys yet."""
    _, record = await create_key(
        backend.open(),
        name="",
        tenant="acme",
        scopes=frozenset({Scope.INFERENCE}),
        limits=KeyLimits(),
        expires=None,
        created_by="test",
    )
    access = context.access
    assert access is not None
    await until(lambda: access.auth.is_on)
    return record


def _num_keys(context: Context) -> int:
    assert context.access is not None
    return len(context.access.auth.ring)


@pytest.mark.parametrize(
    "settings", [{"auth": "auto"}, {"auth": "auto", "host": "::1"}, {"auth": "off"}]
)
async def test_on_loopback_or_when_off_nobody_is_asked(
    backend: EmbeddedBackend,
    generator: FakeGenerator,
    settings: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        keyed_context(backend.open(), generator, **settings) as context,
        asgi_client(context) as client,
    ):
        for headers in ({}, bearer("none")):
            answer = await client.post("/v1/chat/completions", json=CHAT, headers=headers)
            assert answer.status_code == 200
        # But then nobody may make keys over HTTP, and so lock the others out.
        answer = await client.post("/v1/baton/keys", json={})
        assert answer.status_code == 403 and "--auth keys" in answer.json()["error"]["message"]
    assert "open_to_the_network" not in caplog.text
    assert generator.requests[0].tenant == generator.requests[0].tenant_salt == ""


# --- limits ---


async def test_requests_a_minute_as_openais_sdk_sees_them(context: Context) -> None:
    key, record = await make_key(context, rpm=2, tpm=100_000)
    async with http_server(context) as url, sdk(url, key) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="tiny", messages=HI, max_tokens=8
        )
        headers = raw.headers
        assert headers["x-ratelimit-limit-requests"] == "2"
        assert headers["x-ratelimit-remaining-requests"] == "1"
        assert headers["x-ratelimit-reset-requests"].endswith("s")
        assert headers["x-ratelimit-limit-tokens"] == "100000"
        assert int(headers["x-ratelimit-remaining-tokens"]) < 100_000
        stream = await chat(client, stream=True)
        assert stream.response.headers["x-ratelimit-remaining-requests"] == "0"
        async for _ in stream:
            pass
        with pytest.raises(openai.RateLimitError) as caught:
            await chat(client)
    error = caught.value
    body: Any = error.body
    assert body["code"] == "rate_limit_exceeded" and body["type"] == "requests"
    assert f"Rate limit reached for API key {record.id} on requests" in body["message"]
    assert 25 < int(error.response.headers["retry-after"]) <= 30
    assert int(error.response.headers["retry-after-ms"]) <= 30_000
    assert error.response.headers["x-ratelimit-remaining-requests"] == "0"


async def test_tokens_are_reserved_and_what_is_not_used_comes_back(
    context: Context, generator: FakeGenerator
) -> None:
    key, _ = await make_key(context, budget=120)
    used = 0
    async with http_server(context) as url, sdk(url, key) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            while True:
                answer = await chat(client)
                used += answer.usage.total_tokens
    body: Any = caught.value.body
    assert body["code"] == body["type"] == "insufficient_quota"
    assert "retry-after" not in caught.value.response.headers
    # It ends when the next prompt with its eight tokens might not fit.
    num_reserved = len(generator.requests[0].prompt) + 8
    assert 120 - num_reserved < used <= 120


async def test_the_slot_comes_back_however_the_request_ends(backend: EmbeddedBackend) -> None:
    by_hand = FakeGenerator()
    async with keyed_context(backend.open(), by_hand) as context, http_server(context) as url:
        key, _ = await make_key(context, concurrent=1)
        async with sdk(url, key) as client:
            for end in ("completed", "failed", "cancelled"):
                first = asyncio.create_task(chat(client))
                ticket = await by_hand.submitted(len(by_hand.tickets) + 1)
                with pytest.raises(openai.RateLimitError) as caught:
                    await chat(client)
                body: Any = caught.value.body
                assert body["type"] == "concurrent_requests"
                if end == "completed":
                    ticket.feed(text_tokens(TEXT)[0], FinishReason.STOP)
                elif end == "failed":
                    ticket.end(WorkerLostError("gone"))
                else:
                    first.cancel()
                    await ticket.stopped.wait()
                await asyncio.gather(first, return_exceptions=True)
                await _free(context, key)


async def _free(context: Context, key: str) -> None:
    """Wait until nothing is held."""
    assert context.access is not None
    limits = context.access.limits
    await until(lambda: not limits._held)


async def test_a_tenants_keys_share_its_limits(context: Context) -> None:
    (one, _), (two, _) = await make_key(context), await make_key(context)
    await limit_tenant(context, two, "acme", rpm=2)
    await limit_tenant(context, one, "acme", rpm=2)
    async with asgi_client(context) as client:
        statuses = [
            (await client.post("/v1/completions", json=_body(), headers=bearer(key))).status_code
            for key in (one, two, one)
        ]
    assert statuses == [200, 200, 429]


def _body() -> dict[str, Any]:
    return {"model": "tiny", "prompt": "hi", "max_tokens": 4}


# --- tenants ---


async def test_every_prompt_of_a_tenant_begins_with_its_salt(
    context: Context, generator: FakeGenerator
) -> None:
    (a, _), (b, _) = await make_key(context, tenant="a"), await make_key(context, tenant="b")
    async with asgi_client(context) as client:
        for key in (a, b):
            for path, body in (
                ("/v1/chat/completions", CHAT),
                ("/v1/completions", _body()),
                ("/v1/completions", {**_body(), "prompt": ["x", "y"]}),
                ("/v1/completions", {**_body(), "cache_salt": "s"}),
                ("/v1/responses", {"model": "tiny", "input": "hi"}),
                ("/v1/messages", CHAT),
            ):
                answer = await client.post(path, json=body, headers=bearer(key))
                assert answer.status_code == 200
            hint = {"model": "tiny", "prompt": "hi"}
            answer = await client.post("/v1/baton/prefetch", json=hint, headers=bearer(key))
            assert answer.status_code == 202
    salts: dict[str, set[str]] = {"a": set(), "b": set()}
    for request in generator.requests:
        salts[request.tenant].add(request.tenant_salt)
    assert len(salts["a"]) == len(salts["b"]) == 2
    assert not salts["a"] & salts["b"]
    prefetcher: Any = context.prefetcher
    assert [hint.tenant_salt for hint in prefetcher.hints] == [min(salts["a"]), min(salts["b"])]


# --- keys over HTTP, and the audit ---


@pytest.fixture
def audited(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """The fields of the audit log's events so far."""
    monkeypatch.setattr(logging.getLogger("baton.audit"), "propagate", True)
    caplog.set_level(logging.INFO, "baton.audit")

    def read() -> list[dict[str, Any]]:
        records = [r for r in caplog.records if r.name == "baton.audit"]
        return [dict(record.args[0].fields) for record in records]  # type: ignore[index,union-attr]

    return read


async def test_an_admin_makes_lists_and_revokes_keys_and_the_audit_tells(
    context: Context, audited: Any
) -> None:
    admin, boss = await make_key(context, Scope.ADMIN, tenant="ops")
    reader, spy = await make_key(context, Scope.READ, tenant="ops")
    wish = {"name": "app", "tenant": "acme", "scopes": ["inference"], "limits": {"rpm": 5}}
    async with asgi_client(context) as client:
        made = await client.post("/v1/baton/keys", json=wish, headers=bearer(admin))
        assert made.status_code == 201
        new = made.json()
        listed = (await client.get("/v1/baton/keys", headers=bearer(reader))).json()["data"]
        (shown,) = [key for key in listed if key["id"] == new["id"]]
        assert shown["created_by"] == boss.id and shown["state"] == "active"
        assert "key" not in shown and "digest" not in shown
        assert (await client.post("/v1/baton/keys", headers=bearer(reader))).status_code == 403
        where = f"/v1/baton/keys/{new['id']}"
        gone = await client.delete(where, headers=bearer(admin))
        assert gone.json()["state"] == "revoked" and gone.json()["revoked_by"] == boss.id
        missing = await client.delete("/v1/baton/keys/nobody", headers=bearer(admin))
        assert missing.status_code == 404
        wrong = await client.post("/v1/baton/keys", json={"scopes": []}, headers=bearer(admin))
        assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "scopes"
    brief = [(e["key_id"], e["action"], e["target"], e["result"]) for e in audited()]
    assert brief == [
        (boss.id, "POST", new["id"], "ok"),
        (spy.id, "POST", "/v1/baton/keys", "insufficient_permissions"),
        (boss.id, "DELETE", new["id"], "ok"),
        (boss.id, "DELETE", "/v1/baton/keys/nobody", "key_not_found"),
        (boss.id, "POST", "/v1/baton/keys", "invalid_request"),
    ]
    assert new["key"] not in str(audited())


# --- abuse ---


async def test_a_flood_of_wrong_keys_reaches_neither_the_store_nor_the_logs(
    backend: EmbeddedBackend,
    context: Context,
    generator: FakeGenerator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    key, _ = await make_key(context)
    wrong = [draw_key().key for _ in range(300)]
    await backend.stop()
    async with (
        http_server(context) as url,
        httpx.AsyncClient(
            base_url=url, timeout=60, limits=httpx.Limits(max_connections=20)
        ) as client,
        sdk(url, key) as good,
    ):
        answers = asyncio.gather(
            *(client.post("/v1/chat/completions", json=CHAT, headers=bearer(one)) for one in wrong)
        )
        # Whoever has a key is served meanwhile.
        assert (await chat(good)).choices[0].message.content == TEXT
        assert {answer.status_code for answer in await answers} == {401}
    assert len(generator.requests) == 1
    ours = [r for r in caplog.records if r.name.startswith("baton")]
    assert not any(one in r.getMessage() for r in ours for one in wrong)
    assert len(ours) < 20
    assert 'key_refusals_total{code="invalid_api_key"} 300' in context.metrics.render().decode()


async def test_a_wrong_key_is_refused_before_the_body_is_read(context: Context) -> None:
    async with http_server(context) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        # The body is announced, and never sent.
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer wrong\r\n"
            b"content-type: application/json\r\ncontent-length: 1000000\r\n\r\n"
        )
        async with asyncio.timeout(30):
            assert b" 401 " in await reader.readline()
        writer.close()


async def test_an_expired_key_is_401(context: Context) -> None:
    key, _ = await make_key(context, expires=time.time() - 1)
    async with asgi_client(context) as client:
        answer = await client.post("/v1/chat/completions", json=CHAT, headers=bearer(key))
    assert answer.status_code == 401
    assert "has expired" in json.loads(answer.content)["error"]["message"]
