"""Asking a gateway what became of a call."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import httpx
import pytest

from baton.core.errors import UnavailableError, WorkerLostError
from baton.core.request import FinishReason
from baton.core.settings import RecordSettings
from baton.gateway.context import Context
from baton.gateway.records.record_book import RecordBook
from fakes.gateway import asgi_client, make_context, text_tokens
from fakes.generator import FakeGenerator
from fakes.token_plane import TokenPlane
from fakes.worker import FakeWorker, Network

BODY = {"model": "tiny", "prompt": "hi"}
HELLO = text_tokens("hello")[0]


def context() -> Context:
    return make_context(FakeGenerator(lambda *_: text_tokens("hello world"), cached_tokens=2))


async def ask(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    response = await client.get(f"/v1/baton/requests/{name}")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_is_explained_by_either_id(stream: bool) -> None:
    async with asgi_client(context()) as client:
        answer = await client.post(
            "/v1/completions", json={**BODY, "stream": stream}, headers={"x-request-id": "a/b:1"}
        )
        assert answer.headers["x-request-id"] == "a/b:1"
        record = await ask(client, "a/b:1")
        assert await ask(client, record["id"]) == record
    assert record["object"] == "baton.request" and record["request_id"] == "a/b:1"
    assert (record["state"], record["code"], record["api"]) == ("ended", "ok", "completions")
    assert record["cached_tokens"] == 2
    assert 0 < record["first_token_s"] <= record["duration_s"]
    (prompt,) = record["prompts"]
    assert prompt["finish_reasons"] == ["stop"] and prompt["id"] == record["id"]


@pytest.mark.parametrize("given", ["", "with space", "x" * 129, "newline%0a"])
async def test_other_ids_of_clients_are_replaced(given: str) -> None:
    async with asgi_client(context()) as client:
        answer = await client.post("/v1/completions", json=BODY, headers={"x-request-id": given})
        drawn = answer.headers["x-request-id"]
        assert drawn != given and len(drawn) == 32
        assert (await ask(client, drawn))["request_id"] == drawn


@pytest.mark.parametrize("name", ["nobodys", "chatcmpl-1", "%20", "a" * 300, "x%00y"])
async def test_unknown_ids_are_404_in_openais_form(name: str) -> None:
    async with asgi_client(context()) as client:
        response = await client.get(f"/v1/baton/requests/{name}")
    assert response.status_code == 404
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["code"] == "not_found"


async def test_another_gateways_record_comes_from_the_store() -> None:
    here = context()

    async def read_stored(name: str) -> dict[str, Any] | None:
        return {"object": "baton.request", "id": name} if name == "theirs" else None

    here.records = RecordBook(RecordSettings(), here.answers, read_stored=read_stored)
    async with asgi_client(here) as client:
        assert (await ask(client, "theirs"))["id"] == "theirs"


async def test_without_the_store_that_is_said() -> None:
    here = context()

    async def read_stored(_: str) -> None:
        raise UnavailableError("the store is away")

    here.records = RecordBook(RecordSettings(), here.answers, read_stored=read_stored)
    async with asgi_client(here) as client:
        response = await client.get("/v1/baton/requests/theirs")
    assert response.status_code == 503 and "the store" in response.json()["error"]["message"]


async def test_lists_are_the_newest_first_and_filtered() -> None:
    generator = FakeGenerator(lambda *_: text_tokens("hello"))
    async with asgi_client(make_context(generator)) as client:
        for index in range(4):
            generator.failure = WorkerLostError("gone") if index == 1 else None
            headers = {"x-request-id": f"r{index}"}
            await client.post("/v1/completions", json=BODY, headers=headers)

        async def listed(query: str) -> list[str]:
            found = (await client.get(f"/v1/baton/requests{query}")).json()
            assert found["object"] == "list"
            return [one["request_id"] for one in found["data"]]

        assert await listed("") == ["r3", "r2", "r1", "r0"]
        assert await listed("?limit=2") == ["r3", "r2"]
        assert await listed("?failed=1") == ["r1"]
        assert await listed("?slow=1") == []
        assert await listed("?slow=true&failed=true") == ["r1"]
        assert await listed("?slow=0&failed=0") == ["r3", "r2", "r1", "r0"]


@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=x", "limit=1001", "slow=maybe"])
async def test_wrong_filters_are_400(query: str) -> None:
    async with asgi_client(context()) as client:
        response = await client.get(f"/v1/baton/requests?{query}")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == query.partition("=")[0]


async def test_a_call_that_goes_on_is_explained_as_far_as_it_came() -> None:
    generator = FakeGenerator()
    async with asgi_client(make_context(generator)) as client:
        headers = {"x-request-id": "mine"}
        post = asyncio.create_task(client.post("/v1/completions", json=BODY, headers=headers))
        ticket = await generator.submitted()
        ticket.feed(HELLO)
        record = await ask(client, "mine")
        assert (record["state"], record["completion_tokens"]) == ("open", 1)
        ticket.feed(HELLO, FinishReason.LENGTH)
        await post
        assert (await ask(client, "mine"))["state"] == "ended"


async def test_refused_calls_leave_no_record() -> None:
    async with asgi_client(context()) as client:
        headers = {"x-request-id": "mine"}
        await client.post("/v1/completions", json={"model": "tiny"}, headers=headers)
        assert (await client.get("/v1/baton/requests/mine")).status_code == 404


async def test_a_whole_path_is_explained_phase_by_phase() -> None:
    """Real dispatcher, router and sessions under the API."""
    network = Network()
    workers = (
        FakeWorker("p", "prefill", network=network, model="tiny"),
        FakeWorker("d", "decode", network=network, model="tiny"),
    )
    async with TokenPlane(*workers, models=("tiny",)) as plane:
        here = make_context(FakeGenerator())
        here.generator = plane.dispatcher
        async with asgi_client(here) as client:
            body = {**BODY, "prompt": list(range(40, 80)), "max_tokens": 8, "ignore_eos": True}
            answer = await client.post(
                "/v1/completions", json=body, headers={"x-request-id": "mine"}
            )
            assert answer.status_code == 200, answer.text
            record = await ask(client, "mine")
    (prompt,) = record["prompts"]
    phases = prompt["phases"]
    names = [phase["name"] for phase in phases]
    # These workers' first row comes with the news that they have begun.
    assert [name for name in names if name not in ("queue", "prefill", "handoff")] == [
        "prepare",
        "worker_queue",
        "decode",
    ]
    # One after the other, from the arrival on, without a gap.
    assert phases[0]["start_s"] == 0
    for before, after in pairwise(phases):
        assert after["start_s"] == pytest.approx(before["end_s"], abs=1e-3)
    assert phases[-1]["end_s"] <= record["duration_s"]
    (attempt,) = prompt["attempts"]
    assert (attempt["prefill"], attempt["decode"]) == ("p", "d")
    choice = attempt["choice"]
    assert {one["worker"] for one in choice["candidates"]} == {"p", "d"}
    assert all(one["terms"] for one in choice["candidates"])
    assert prompt["predicted"]["cached_tokens"]["actual"] == 20
    assert prompt["predicted"]["ttft_s"]["actual"] > 0
