"""POST /v1/baton/prefetch, and what caching parameters of requests become."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from baton.core.settings import GatewaySettings
from baton.gateway.api import openapi
from baton.gateway.context import Context
from fakes.gateway import MODEL, FakePrefetcher, asgi_client, make_context, text_tokens
from fakes.generator import FakeGenerator


def context(**settings: Any) -> Context:
    return make_context(FakeGenerator(lambda *_: text_tokens("ok")), GatewaySettings(**settings))


async def post(to: Context, path: str = "/v1/baton/prefetch", **body: Any) -> httpx.Response:
    async with asgi_client(to) as client:
        return await client.post(path, json={"model": MODEL, **body})


def hints(of: Context) -> list[Any]:
    assert isinstance(of.prefetcher, FakePrefetcher)
    return of.prefetcher.hints


async def test_chat_is_rendered_and_tokenized_as_its_request_would_be() -> None:
    to = context()
    messages = [{"role": "user", "content": "hello there"}]
    answer = await post(to, messages=messages, cache_ttl=7, cache_salt="a", from_worker="w2")
    assert answer.status_code == 202
    await post(to, "/v1/chat/completions", messages=messages)
    assert isinstance(to.generator, FakeGenerator)
    (hint,) = hints(to)
    assert hint.prompt == to.generator.tickets[0].request.prompt
    assert (hint.cache_ttl_s, hint.tenant_salt, hint.from_worker) == (7.0, "a", "w2")
    assert answer.json() == {
        "object": "baton.prefetch",
        "model": MODEL,
        "cache_ttl": 7.0,
        "prompts": [{"prompt_tokens": len(hint.prompt), "workers": [{"id": "w1", "role": "any"}]}],
    }


@pytest.mark.parametrize(
    ("prompt", "num_prompts"), [("hello", 1), (["hello", "you"], 2), ([5, 6, 7], 1)]
)
async def test_prompts_come_as_for_completions(prompt: Any, num_prompts: int) -> None:
    to = context()
    answer = await post(to, prompt=prompt)
    assert answer.status_code == 202 and len(answer.json()["prompts"]) == num_prompts
    assert [hint.cache_ttl_s for hint in hints(to)] == [60.0] * num_prompts


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "messages"),
        ({"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, 400, "messages"),
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": "x", "cache_ttl": -1}, 400, "cache_ttl"),
        ({"prompt": "x", "cache_ttl": 3601}, 400, "cache_ttl"),
        ({"prompt": "x", "cache_ttl": "5"}, 400, "cache_ttl"),
        ({"prompt": "x", "cache_salt": ""}, 400, "cache_salt"),
        ({"prompt": "x", "cache_salt": "s" * 257}, 400, "cache_salt"),
        ({"prompt": "x", "max_tokens": 5}, 400, "max_tokens"),
        ({"prompt": [10**9]}, 400, "prompt"),
        ({"prompt": "x", "model": "other"}, 404, "model"),
        ({"prompt": "hello " * 600}, 400, None),
    ],
)
async def test_bad_hints_are_refused_as_bad_requests_are(
    body: dict[str, Any], status: int, param: str | None
) -> None:
    to = context()
    answer = await post(to, **body)
    assert answer.status_code == status and not hints(to)
    error = answer.json()["error"]
    assert error["message"] and (param is None or error["param"] == param)
    assert 'api="prefetch"' in to.metrics.render().decode()


async def test_only_post_is_allowed() -> None:
    async with asgi_client(context()) as client:
        answer = await client.get("/v1/baton/prefetch")
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"


async def test_cache_parameters_reach_the_request() -> None:
    to = context()
    for path, body in (
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    ):
        answer = await post(to, path, cache_ttl=2.5, cache_salt="tenant", **body)
        assert answer.status_code == 200
    assert isinstance(to.generator, FakeGenerator)
    for ticket in to.generator.tickets:
        assert (ticket.request.cache_ttl_s, ticket.request.tenant_salt) == (2.5, "tenant")


async def test_cache_ttl_is_bounded_by_the_setting() -> None:
    to = context(max_cache_ttl_s=10.0)
    assert (await post(to, "/v1/completions", prompt="hi", cache_ttl=10)).status_code == 200
    refused = await post(to, "/v1/completions", prompt="hi", cache_ttl=10.5)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "cache_ttl"
    # A hint that says nothing keeps to it, too.
    assert (await post(to, prompt="hi")).json()["cache_ttl"] == 10.0


def test_openapi_tells_of_it() -> None:
    paths = openapi.document()["paths"]
    assert "202" in paths["/v1/baton/prefetch"]["post"]["responses"]
    schemas = openapi.document()["components"]["schemas"]
    assert {"cache_ttl", "cache_salt", "from_worker"} <= set(schemas["PrefetchBody"]["properties"])
    assert {"cache_ttl", "cache_salt"} <= set(schemas["ChatBody"]["properties"])
