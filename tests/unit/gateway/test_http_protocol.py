"""Connections on real sockets: slow heads, large heads, clients that take nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.types import Receive, Scope, Send

from baton.gateway.answer.base import OpenAnswers
from baton.gateway.http import protocol as http_protocol
from baton.gateway.http.server import HttpServer
from baton.telemetry.addresses import listening_socket
from fakes.until import until

HEAD = b"GET /%d HTTP/1.1\r\nhost: x\r\n"
LARGE = 4 * 2**20


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the path; `/large` with more than any socket holds."""
    body = scope["path"].encode() if scope["path"] != "/large" else b"x" * LARGE
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def served() -> AsyncIterator[HttpServer]:
    server = HttpServer(app, listening_socket("127.0.0.1", 0))
    await server.start()
    try:
        yield server
    finally:
        await server.stop(OpenAnswers(), 0.0)


@asynccontextmanager
async def connection(
    server: HttpServer,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def response(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head, await reader.readexactly(length)


def refusal(head: bytes, body: bytes, status: int) -> str:
    """The message of a refusal in OpenAI's form."""
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in head and b"content-type: application/json" in head
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")
    message: str = error["message"]
    return message


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.2)


async def test_a_head_that_drips_is_refused_however_steadily(hasty: None) -> None:
    async with served() as server, connection(server) as (reader, writer):

        async def drip() -> None:
            writer.write(b"GET / HTTP/1.1\r\n")
            while True:
                writer.write(b"x: y\r\n")
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        head, body = await asyncio.wait_for(response(reader), 60)
        assert "did not arrive in time" in refusal(head, body, 408)
        dripping.cancel()


async def test_a_second_request_that_drips_is_refused_too(hasty: None) -> None:
    async with served() as server, connection(server) as (reader, writer):
        writer.write(HEAD % 1 + b"\r\n")
        assert (await response(reader))[1] == b"/1"
        writer.write(b"GET /2 HT")
        refusal(*await asyncio.wait_for(response(reader), 60), 408)
        assert await reader.read() == b""


async def test_blank_lines_are_no_request(hasty: None) -> None:
    async with served() as server, connection(server) as (reader, writer):
        writer.write(HEAD % 1 + b"\r\n")
        await response(reader)

        async def drip() -> None:
            while True:
                writer.write(b"\r\n")
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        # It is closed, without a word; what was on its way then may make that a reset.
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 60) == b""
        dripping.cancel()


async def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "KEEP_ALIVE_S", 0.1)
    async with served() as server, connection(server) as (reader, _):
        assert await asyncio.wait_for(reader.read(), 60) == b""


async def test_patience_begins_anew_with_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 2.0)
    async with served() as server, connection(server) as (reader, writer):
        # Together longer than one's patience; each far from it, even on a busy machine.
        for number in range(5):
            writer.write(HEAD % number)
            await asyncio.sleep(0.5)
            writer.write(b"\r\n")
            assert (await response(reader))[1] == b"/%d" % number


@pytest.mark.parametrize("size", [70_000, 250_000, 2_000_000])
@pytest.mark.parametrize("ends", [True, False])
async def test_large_heads_are_refused_however_they_come(size: int, ends: bool) -> None:
    async with served() as server, connection(server) as (reader, writer):
        writer.write(HEAD % 1 + b"x: " + b"y" * size + (b"\r\n\r\n" if ends else b""))
        assert "headers are larger" in refusal(*await response(reader), 431)


async def test_a_large_body_makes_no_large_head() -> None:
    async with served() as server, connection(server) as (reader, writer):
        writer.write(b"POST /b HTTP/1.1\r\ncontent-length: 200000\r\n\r\n" + b"x" * 200_000)
        assert (await response(reader))[1] == b"/b"


async def test_no_http_is_refused_in_the_same_form() -> None:
    async with served() as server, connection(server) as (reader, writer):
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00")
        assert "not HTTP" in refusal(*await response(reader), 400)


@pytest.mark.parametrize("keeps_alive", [True, False])
async def test_a_client_that_takes_nothing_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, keeps_alive: bool
) -> None:
    monkeypatch.setattr(http_protocol, "STALL_TIMEOUT_S", 0.1)
    loop = asyncio.get_running_loop()
    async with served() as server:
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        await loop.sock_connect(slow, ("127.0.0.1", server.port))
        close = b"" if keeps_alive else b"connection: close\r\n"
        await loop.sock_sendall(slow, b"GET /large HTTP/1.1\r\nhost: x\r\n" + close + b"\r\n")
        await until(lambda: not server.num_connections)
        slow.close()


async def test_thousands_of_pipelined_requests_are_answered_in_order() -> None:
    async with served() as server, connection(server) as (reader, writer):
        count = 5000

        async def ask() -> None:
            for number in range(count):
                writer.write(HEAD % number + b"\r\n")
                if number % 100 == 0:
                    await writer.drain()

        asking = asyncio.create_task(ask())
        for number in range(count):
            assert (await response(reader))[1] == b"/%d" % number
        await asking
