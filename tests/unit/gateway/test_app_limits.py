"""Bodies too large, broken or slow; deadlines; ports that are taken."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from baton.core.errors import ConfigError
from baton.core.settings import GatewaySettings
from baton.telemetry.addresses import listening_socket
from fakes.gateway import asgi_client, http_server, make_context, text_tokens
from fakes.generator import FakeGenerator

BODY: dict[str, Any] = {"model": "tiny", "prompt": "hi"}
SMALL = GatewaySettings(max_body_bytes=64 * 1024)


def generator() -> FakeGenerator:
    return FakeGenerator(lambda *_: text_tokens("hello"))


async def raw(sent: bytes) -> bytes:
    """What comes back for bytes on a connection, up to the end of the body."""
    async with http_server(make_context(generator(), SMALL)) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
        writer.write(sent)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        writer.close()
        return head + body


async def test_declared_50_mb_are_refused_before_they_come() -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 52428800\r\n\r\n"
    answer = await raw(head + b'{"model"')
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()
    assert b'"code":"payload_too_large"' in answer and b"65536 bytes" in answer


async def test_endless_chunks_are_refused_when_they_are_too_many() -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    assert (await raw(head + chunk * 6)).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("chunked", [False, True])
async def test_client_that_sends_it_all_still_gets_the_answer(chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b" " * 65536

    content: Any = pieces() if chunked else b" " * (200 * 65536)
    fake = generator()
    async with (
        http_server(make_context(fake, SMALL)) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        response = await client.post("/v1/completions", content=content)
        assert response.status_code == 413
        assert (await client.post("/v1/completions", json=BODY)).status_code == 200
    assert len(fake.tickets) == 1


@pytest.mark.parametrize("head", [b"x: " + b"y" * 100_000, b"x: y\r\n" * 20_000])
async def test_endless_heads_are_refused(head: bytes) -> None:
    answer = await raw(b"GET /health HTTP/1.1\r\n" + head)
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_body_in_pieces_is_put_together() -> None:
    def pieces() -> Iterator[bytes]:
        for byte in json.dumps(BODY).encode():
            yield bytes([byte])

    async def slowly() -> AsyncIterator[bytes]:
        for piece in pieces():
            yield piece

    async with (
        http_server(make_context(generator())) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        assert (await client.post("/v1/completions", content=slowly())).status_code == 200


async def test_body_that_never_comes_ends_at_the_deadline() -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-request-timeout: 0.05\r\n"
    answer = await raw(head + b"content-length: 100\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 504 ") and b"deadline_exceeded" in answer


async def test_client_that_leaves_in_mid_body_does_no_harm() -> None:
    context = make_context(generator())
    async with http_server(context) as url:
        _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{")
        await writer.drain()
        writer.close()
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.post("/v1/completions", json=BODY)).status_code == 200


@pytest.mark.parametrize(
    "content", [b"{not json", b'{"model": "tiny", "prompt": "\xff\xfe"}', b"", b"\xef\xbb\xbf{}"]
)
async def test_broken_bodies_are_400(content: bytes) -> None:
    async with asgi_client(make_context(generator())) as client:
        response = await client.post("/v1/completions", content=content)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_request"


async def test_compressed_bodies_are_415() -> None:
    async with asgi_client(make_context(generator())) as client:
        response = await client.post(
            "/v1/completions",
            content=gzip.compress(json.dumps(BODY).encode()),
            headers={"content-encoding": "gzip"},
        )
    assert response.status_code == 415


async def test_content_type_does_not_matter() -> None:
    # As curl -d sends it without a header.
    async with asgi_client(make_context(generator())) as client:
        response = await client.post(
            "/v1/completions",
            content=json.dumps(BODY),
            headers={"content-type": "application/x-www-form-urlencoded"},
        )
    assert response.status_code == 200


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "soon", "", "86401", "1e9"])
async def test_insane_timeouts_are_400(given: str) -> None:
    async with asgi_client(make_context(generator())) as client:
        response = await client.post(
            "/v1/completions", json=BODY, headers={"x-request-timeout": given}
        )
    assert response.status_code == 400
    assert "x-request-timeout" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "timeout_s"), [({"x-request-timeout": "2.5"}, 2.5), ({}, 77.0)]
)
async def test_deadline_is_the_headers_or_the_settings(
    headers: dict[str, str], timeout_s: float
) -> None:
    fake = generator()
    before = time.monotonic()
    async with asgi_client(make_context(fake, GatewaySettings(request_timeout_s=77.0))) as client:
        await client.post("/v1/completions", json=BODY, headers=headers)
    after = time.monotonic()
    assert before + timeout_s <= fake.requests[0].deadline <= after + timeout_s


async def test_traceparent_goes_with_the_request() -> None:
    fake = generator()
    sane = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with asgi_client(make_context(fake)) as client:
        for given in (sane, "nonsense"):
            await client.post("/v1/completions", json=BODY, headers={"traceparent": given})
    assert [r.traceparent for r in fake.requests] == [sane, ""]


def test_taken_port_is_named() -> None:
    with listening_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: the port is in use"):
            listening_socket("127.0.0.1", port)


def test_address_of_another_machine_is_named() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1:8000"):
        listening_socket("192.0.2.1", 8000)
    with pytest.raises(ConfigError, match="not an address of this machine"):
        listening_socket("no such host", 8000)
