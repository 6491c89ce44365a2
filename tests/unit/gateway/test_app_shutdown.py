"""Stopping: open answers get their grace, then an error; new ones are refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from baton.core.errors import UnavailableError
from baton.core.request import FinishReason
from baton.gateway.app import create_app
from baton.gateway.context import Context
from baton.gateway.http.server import HttpServer
from baton.telemetry.addresses import listening_socket
from fakes.gateway import events, make_context, text_tokens
from fakes.generator import FakeGenerator

HELLO = text_tokens("hello")[0]
BODY = {"model": "tiny", "prompt": "hi"}
UNAVAILABLE = UnavailableError("stopping")


@asynccontextmanager
async def started(context: Context) -> AsyncIterator[tuple[HttpServer, httpx.AsyncClient]]:
    server = HttpServer(create_app(context), listening_socket("127.0.0.1", 0))
    await server.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        yield server, client


async def test_open_stream_ends_with_an_error_event() -> None:
    generator = FakeGenerator()
    context = make_context(generator)
    async with started(context) as (server, client):
        post = asyncio.create_task(client.post("/v1/completions", json={**BODY, "stream": True}))
        ticket = await generator.submitted()
        ticket.feed(HELLO)
        await server.stop(context.answers, 0.05)
        response = await post
    found = events(response.text)
    assert found[0]["choices"][0]["text"] == "hello"
    assert found[-1]["error"]["code"] == "unavailable"
    assert "shutting down" in found[-1]["error"]["message"]
    assert ticket.cancelled is not None


async def test_waiting_request_ends_with_503() -> None:
    generator = FakeGenerator()
    context = make_context(generator)
    async with started(context) as (server, client):
        post = asyncio.create_task(client.post("/v1/completions", json=BODY))
        await generator.submitted()
        await server.stop(context.answers, 0.0)
        response = await post
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "unavailable"


async def test_answers_that_end_within_the_grace_are_whole() -> None:
    generator = FakeGenerator()
    context = make_context(generator)
    async with started(context) as (server, client):
        post = asyncio.create_task(client.post("/v1/completions", json=BODY))
        ticket = await generator.submitted()
        stop = asyncio.create_task(server.stop(context.answers, 60.0))
        await asyncio.sleep(0)
        ticket.feed(HELLO, FinishReason.LENGTH)
        response = await post
        await stop
    assert response.json()["choices"][0]["text"] == "hello"


async def test_no_connection_is_taken_after_stop() -> None:
    context = make_context(FakeGenerator())
    async with started(context) as (server, client):
        await server.stop(context.answers, 0.0)
        with pytest.raises(httpx.ConnectError):
            await client.get("/health")


async def test_request_on_an_open_connection_is_refused_while_stopping() -> None:
    generator = FakeGenerator()
    context = make_context(generator)
    async with started(context) as (server, client):
        open_one = asyncio.create_task(client.post("/v1/completions", json=BODY))
        ticket = await generator.submitted()
        draining = asyncio.create_task(context.answers.drain(60.0, UNAVAILABLE))
        await asyncio.sleep(0)
        refused = await client.post("/v1/completions", json=BODY)
        assert refused.status_code == 503
        assert (await client.get("/health")).status_code == 200
        ticket.feed(HELLO, FinishReason.LENGTH)
        assert (await open_one).status_code == 200
        await draining
        await server.stop(context.answers, 0.0)


async def test_client_that_has_sent_half_a_request_does_not_hold_up_the_stop() -> None:
    context = make_context(FakeGenerator())
    async with started(context) as (server, _):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{")
        await writer.drain()
        await asyncio.wait_for(server.stop(context.answers, 0.0), 60)
        writer.close()
