"""Streams on real sockets: one write per turn, clients that leave, clients that do not read."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from baton.core.errors import UnavailableError
from baton.core.request import FinishReason
from baton.gateway.answer import stream as stream_module
from baton.gateway.app import create_app
from baton.gateway.context import Context
from baton.gateway.http.server import HttpServer, new_event_loop
from baton.gateway.text.tokenizer import Tokenizer
from baton.telemetry.addresses import listening_socket
from fakes.gateway import events, http_server, make_context, text_tokens
from fakes.generator import FakeGenerator
from fakes.small_tokenizer import byte_level

HELLO = text_tokens("hello")[0]


def request(**fields: Any) -> bytes:
    body = json.dumps(
        {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **fields}
    ).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        + body
    )


@asynccontextmanager
async def connection(
    context: Context, sent: bytes
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with http_server(context) as url:
        port = httpx.URL(url).port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        try:
            yield reader, writer
        finally:
            writer.close()


async def read_chunk(reader: asyncio.StreamReader) -> str:
    size = int(await reader.readline(), 16)
    data = await reader.readexactly(size + 2)
    return data[:-2].decode()


async def test_nothing_is_sent_before_the_first_token() -> None:
    generator = FakeGenerator()
    async with connection(make_context(generator), request(stream=True)) as (reader, _):
        ticket = await generator.submitted()
        read = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        await asyncio.sleep(0.02)
        assert not read.done()
        ticket.feed(HELLO)
        assert (await read).startswith(b"HTTP/1.1 200 OK\r\n")
        first = events(await read_chunk(reader))
        assert [e["choices"][0]["delta"].get("content") for e in first] == ["", "hello"]
        ticket.cancel("enough")
        ticket.sink.on_end(None)


async def test_tokens_of_one_turn_leave_in_one_write() -> None:
    generator = FakeGenerator()
    async with connection(make_context(generator), request(stream=True, n=3)) as (reader, _):
        ticket = await generator.submitted()
        ticket.feed(HELLO)
        await reader.readuntil(b"\r\n\r\n")
        await read_chunk(reader)
        for choice in range(3):
            ticket.feed(HELLO, choice=choice)
        # The two choices that begin here have a chunk for the role, too.
        assert len(events(await read_chunk(reader))) == 5
        for choice in range(3):
            ticket.feed(HELLO, FinishReason.LENGTH, choice)
        assert len(events(await read_chunk(reader))) == 7
        assert await reader.readuntil(b"0\r\n\r\n") == b"0\r\n\r\n"


@pytest.mark.parametrize("stream", [True, False])
async def test_client_that_leaves_is_cancelled(stream: bool) -> None:
    generator = FakeGenerator()
    context = make_context(generator)
    async with connection(context, request(stream=stream)) as (_, writer):
        ticket = await generator.submitted()
        assert len(context.answers) == 1
        ticket.feed(HELLO)
        writer.close()
        await asyncio.wait_for(ticket.stopped.wait(), 60)
        assert ticket.cancelled == "the client went away"
        await context.answers.drain(5.0, UnavailableError("late"))
        assert len(context.answers) == 0
    rendered = context.metrics.render().decode()
    assert 'baton_cancelled_requests_total{model="tiny"} 1.0' in rendered
    assert 'baton_inflight_requests{model="tiny"} 0.0' in rendered


async def test_client_that_leaves_cancels_all_prompts_of_a_batch() -> None:
    generator = FakeGenerator()
    body = json.dumps({"model": "tiny", "prompt": ["a", "b"], "stream": True}).encode()
    sent = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with connection(make_context(generator), sent + body) as (_, writer):
        await generator.submitted(2)
        first, second = generator.tickets
        first.feed(HELLO, FinishReason.LENGTH)
        assert first.ended
        writer.close()
        await asyncio.wait_for(second.stopped.wait(), 60)
        assert first.cancelled is None


async def test_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_UNSENT_BYTES", 64 * 1024)
    generator = FakeGenerator()
    context = make_context(generator)
    async with http_server(context) as url:
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(slow, ("127.0.0.1", httpx.URL(url).port))
        await loop.sock_sendall(slow, request(stream=True, ignore_eos=True))
        ticket = await generator.submitted()
        for _ in range(100_000):
            ticket.feed(HELLO)
            await asyncio.sleep(0)
            if ticket.cancelled is not None:
                break
        assert ticket.cancelled is not None
        await context.answers.drain(5.0, UnavailableError("late"))
        assert len(context.answers) == 0
        slow.close()


async def test_large_echo_is_no_fault_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_UNSENT_BYTES", 64 * 1024)
    monkeypatch.setattr(stream_module, "_LARGE_EVENT_BYTES", 1024)
    # One token of many bytes, so that the prompt fits the context.
    raw = byte_level()
    raw.add_tokens(["longest" * 500])
    context = make_context(FakeGenerator(lambda *_: text_tokens("hello")))
    model = context.models["tiny"]
    model = replace(model, tokenizer=Tokenizer(raw), vocab_size=raw.get_vocab_size())
    context.models = {"tiny": model}
    prompt = "longest" * 500 * 100
    async with (
        http_server(context) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        body = {"model": "tiny", "prompt": prompt, "echo": True, "stream": True, "n": 4}
        found = events((await client.post("/v1/completions", json=body)).text)
    texts = ["", "", "", ""]
    for event in found[:-1]:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == [prompt + "hello"] * 4


async def test_keep_alive_connection_serves_the_next_request() -> None:
    generator = FakeGenerator(lambda *_: text_tokens("hello"))
    async with (
        http_server(make_context(generator)) as url,
        httpx.AsyncClient(base_url=url, limits=httpx.Limits(max_connections=1)) as client,
    ):
        for stream in (True, False, True):
            body = {"model": "tiny", "prompt": "x", "stream": stream}
            response = await client.post("/v1/completions", json=body)
            assert response.status_code == 200 and "hello" in response.text


def test_streams_on_uvloop_as_the_gateway_runs_them() -> None:
    async def main(post: Callable[[str], Any]) -> str:
        generator = FakeGenerator(lambda *_: text_tokens("hello world"))
        context = make_context(generator)
        server = HttpServer(create_app(context), listening_socket("127.0.0.1", 0))
        await server.start()
        text: str = await post(f"http://127.0.0.1:{server.port}")
        await server.stop(context.answers, 0.0)
        return text

    async def post(url: str) -> str:
        async with httpx.AsyncClient(base_url=url) as client:
            body = {"model": "tiny", "prompt": "x", "stream": True}
            return (await client.post("/v1/completions", json=body)).text

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        found = events(runner.run(main(post)))
    assert "".join(e["choices"][0]["text"] for e in found[:-1]) == "hello world"
