"""The endpoints around the API, errors of routing, request ids, metrics."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from baton.core.errors import WorkerLostError
from baton.gateway.app import create_app, create_lifespan_app
from baton.gateway.context import Context
from fakes.gateway import asgi_client, make_context, text_tokens
from fakes.generator import FakeGenerator

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


def context() -> Context:
    return make_context(FakeGenerator(lambda *_: text_tokens("hello world"), cached_tokens=2))


async def test_health_and_workers() -> None:
    async with asgi_client(context()) as client:
        assert (await client.get("/health")).json() == {"status": "ok"}
        workers = (await client.get("/v1/baton/workers")).json()
    assert workers == {"object": "list", "data": [{"id": "w1"}]}


async def test_ready_says_what_is_missing() -> None:
    gateway = context()
    reason: str | None = "it starts"
    gateway.not_ready = lambda: reason
    shortage = "no worker for model 'tiny' is alive"
    gateway.shortage = lambda _: shortage
    async with asgi_client(gateway) as client:
        response = await client.get("/ready")
        assert response.status_code == 503
        shortages = {"tiny": shortage}
        not_ready = {"status": "not ready", "reason": "it starts", "shortages": shortages}
        assert response.json() == not_ready
        reason = None
        # Requests may come, and wait here.
        response = await client.get("/ready")
        assert response.status_code == 200
        assert response.json() == {"status": "ready", "shortages": shortages}
        # Alive all the time.
        assert (await client.get("/health")).status_code == 200


async def test_models() -> None:
    async with asgi_client(context()) as client:
        listed = (await client.get("/v1/models")).json()
        assert listed["object"] == "list"
        (card,) = listed["data"]
        assert (card["id"], card["object"], card["max_model_len"]) == ("tiny", "model", 512)
        assert (await client.get("/v1/models/tiny")).json() == card
        missing = await client.get("/v1/models/some/model")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


async def test_unknown_model_is_404_and_says_what_there_is() -> None:
    async with asgi_client(context()) as client:
        response = await client.post("/v1/chat/completions", json={**CHAT, "model": "gpt-4"})
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "Served here: tiny" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v1/chat/completions", 405, "POST"),
        ("DELETE", "/v1/completions", 405, "POST"),
        ("GET", "/", 404, None),
        ("POST", "/v1/embeddings", 404, None),
        ("POST", "/v1/completions/", 404, None),
    ],
)
async def test_wrong_paths_and_methods(
    method: str, path: str, status: int, allow: str | None
) -> None:
    async with asgi_client(context()) as client:
        response = await client.request(method, path)
    assert response.status_code == status
    assert response.headers.get("allow") == allow
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]


async def test_get_also_answers_head() -> None:
    async with asgi_client(context()) as client:
        assert (await client.head("/health")).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/nope", "/v1/completions"])
async def test_request_id_is_given_back(path: str) -> None:
    async with asgi_client(context()) as client:
        response = await client.get(path, headers={"x-request-id": "my.id_7:/+=@-"})
    assert response.headers["x-request-id"] == "my.id_7:/+=@-"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\tb", "ä"])
async def test_insane_request_id_is_replaced(given: str) -> None:
    async with asgi_client(context()) as client:
        response = await client.get("/health", headers={b"x-request-id": given.encode()})
    assert len(response.headers["x-request-id"]) == 32


async def test_every_answer_has_its_own_id() -> None:
    gateway = context()
    async with asgi_client(gateway) as client:
        for stream in (True, False):
            headers = {"x-request-id": "same"}
            body = {**CHAT, "stream": stream}
            response = await client.post("/v1/chat/completions", json=body, headers=headers)
            assert response.headers["x-request-id"] == "same"
    generator = gateway.generator
    assert isinstance(generator, FakeGenerator)
    assert len({request.request_id for request in generator.requests}) == 2


async def test_a_bug_is_a_500_in_openais_form() -> None:
    gateway = context()

    def broken() -> str | None:
        raise RuntimeError("secret")

    gateway.not_ready = broken
    async with asgi_client(gateway) as client:
        response = await client.get("/ready")
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert response.headers["x-request-id"]


async def test_a_bug_in_tokenizing_is_a_500(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = context()

    async def broken(*_: object) -> list[int]:
        raise RuntimeError("secret")

    monkeypatch.setattr(gateway.models["tiny"].tokenizer, "encode_chat", broken)
    async with asgi_client(gateway) as client:
        response = await client.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 500 and "secret" not in response.text


async def test_a_bug_in_submitting_is_a_500_and_leaves_nothing_open() -> None:
    gateway = context()

    class Broken:
        def submit(self, *_: object) -> object:
            raise RuntimeError("secret")

    gateway.generator = Broken()  # type: ignore[assignment]
    async with asgi_client(gateway) as client:
        response = await client.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 500 and "secret" not in response.text
    assert len(gateway.answers) == 0


async def test_metrics_count_requests_and_tokens() -> None:
    gateway = context()
    async with asgi_client(gateway) as client:
        await client.post("/v1/chat/completions", json=CHAT)
        await client.post("/v1/chat/completions", json={**CHAT, "stream": True, "n": 2})
        await client.post("/v1/chat/completions", json={**CHAT, "model": "other"})
        await client.post("/v1/completions", json={"model": "tiny", "prompt": ""})
        response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    lines = response.text.splitlines()
    assert 'baton_requests_total{api="chat",code="ok",model="tiny"} 2.0' in lines
    assert 'baton_requests_total{api="chat",code="model_not_found",model="unknown"} 1.0' in lines
    refused = 'baton_requests_total{api="completions",code="invalid_request",model="tiny"} 1.0'
    assert refused in lines
    assert 'baton_completion_tokens_total{model="tiny"} 9.0' in lines
    assert 'baton_cached_tokens_total{model="tiny"} 4.0' in lines
    assert 'baton_time_to_first_token_seconds_count{model="tiny"} 2.0' in lines
    assert 'baton_inter_token_latency_seconds_count{model="tiny"} 6.0' in lines
    assert 'baton_time_per_output_token_seconds_count{model="tiny"} 1.0' in lines
    assert 'baton_inflight_requests{model="tiny"} 0.0' in lines


async def test_end_of_a_request_is_logged_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="baton.gateway")
    async with asgi_client(context()) as client:
        headers = {"x-request-id": "mine"}
        await client.post("/v1/chat/completions", json=CHAT, headers=headers)
    (line,) = [r.getMessage() for r in caplog.records if "request_finished" in r.getMessage()]
    assert "request_id=mine" in line and "code=ok" in line and "completion_tokens=3" in line
    assert "hello" not in caplog.text


async def test_metrics_count_failures_by_code() -> None:
    gateway = context()
    assert isinstance(gateway.generator, FakeGenerator)
    gateway.generator.failure = WorkerLostError("died")
    async with asgi_client(gateway) as client:
        await client.post("/v1/chat/completions", json=CHAT)
        metrics = (await client.get("/metrics")).text
    assert 'baton_requests_total{api="chat",code="worker_lost",model="tiny"} 1.0' in metrics


async def test_openapi_describes_every_path_and_parameter() -> None:
    async with asgi_client(context()) as client:
        document = (await client.get("/openapi.json")).json()
    routes = {route.path for route in create_app(context()).routes}  # type: ignore[attr-defined]
    assert set(document["paths"]) == {r.replace(":path", "") for r in routes} - {"/openapi.json"}
    schemas = document["components"]["schemas"]
    assert {"model", "messages", "temperature", "top_k"} <= set(schemas["ChatBody"]["properties"])
    assert schemas["ChatBody"]["required"] == ["model", "messages"]
    assert schemas["ChatBody"]["additionalProperties"] is False
    assert {"message", "type", "param", "code"} == set(schemas["ErrorDetail"]["properties"])
    text = json.dumps(document)
    for reference in set(text.split('"#/components/schemas/')[1:]):
        assert reference.split('"')[0] in schemas


async def test_context_is_opened_and_closed_with_the_app() -> None:
    life = []

    @asynccontextmanager
    async def open_context() -> AsyncIterator[Context]:
        life.append("opened")
        yield context()
        life.append("closed")

    app = create_lifespan_app(open_context)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 503
        async with app.router.lifespan_context(app):
            assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
            assert life == ["opened"]
        assert life == ["opened", "closed"]
        assert (await client.get("/health")).status_code == 503
