"""The gateway's two ports over TLS, on uvloop as it runs them."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from baton.gateway.answer import stream as stream_module
from baton.gateway.app import create_app
from baton.gateway.context import Context
from baton.gateway.http.server import HttpServer, new_event_loop
from baton.gateway.rpc.server import RpcServer
from baton.telemetry import certificates
from baton.telemetry.addresses import listening_socket
from baton.telemetry.certificates import Certificates, TlsFiles
from fakes.certificates import Authority, Files
from fakes.gateway import events, make_context, text_tokens
from fakes.generator import FakeGenerator
from fakes.until import until

HELLO = text_tokens("hello")[0]
BODY = {"model": "tiny", "prompt": "x", "stream": True}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Authority().issue(tmp_path / "gateway", "127.0.0.1")


def trusting(files: Files) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=files.ca)


def identities(files: Files) -> Certificates:
    return Certificates(TlsFiles("gateway.tls_", files.cert, files.key))


def served(
    context: Context, files: Files, work: Callable[[HttpServer, str], Awaitable[None]]
) -> None:
    """Run `work(server, url)` beside the HTTP server."""

    async def main() -> None:
        server = HttpServer(
            create_app(context), listening_socket("127.0.0.1", 0), identities(files)
        )
        await server.start()
        try:
            await work(server, f"https://127.0.0.1:{server.port}")
        finally:
            await server.stop(context.answers, 0.0)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())


def test_streams_and_whole_answers_on_one_connection(files: Files) -> None:
    context = make_context(FakeGenerator(lambda *_: text_tokens("hello world")))

    async def work(server: HttpServer, url: str) -> None:
        async with httpx.AsyncClient(base_url=url, verify=trusting(files)) as client:
            for stream in (True, False, True):
                answer = await client.post("/v1/completions", json={**BODY, "stream": stream})
                assert answer.status_code == 200
                if stream:
                    found = events(answer.text)[:-1]
                    assert "".join(e["choices"][0]["text"] for e in found) == "hello world"
            assert server.num_connections == 1

    served(context, files, work)


def test_a_client_that_goes_away_cancels_its_request(files: Files) -> None:
    generator = FakeGenerator()
    context = make_context(generator)

    async def work(server: HttpServer, url: str) -> None:
        async with httpx.AsyncClient(base_url=url, verify=trusting(files)) as client:
            sending = asyncio.create_task(client.post("/v1/completions", json=BODY))
            await until(lambda: bool(generator.tickets))
            sending.cancel()
        await until(lambda: generator.tickets[0].cancelled is not None)

    served(context, files, work)


def test_a_client_that_reads_nothing_is_cut_off(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes that wait for it are counted behind the TLS layer, too."""
    monkeypatch.setattr(stream_module, "MAX_UNSENT_BYTES", 64 * 1024)
    generator = FakeGenerator()
    context = make_context(generator)

    def ask(port: int) -> ssl.SSLSocket:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", port))
        slow = trusting(files).wrap_socket(raw, server_hostname="127.0.0.1")
        body = json.dumps({**BODY, "ignore_eos": True}).encode()
        head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        slow.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        return slow

    async def work(server: HttpServer, url: str) -> None:
        slow = await asyncio.to_thread(ask, server.port)
        ticket = await generator.submitted()
        for _ in range(100_000):
            ticket.feed(HELLO)
            await asyncio.sleep(0)
            if ticket.cancelled is not None:
                break
        assert ticket.cancelled is not None
        slow.close()
        await until(lambda: server.num_connections == 0)

    served(context, files, work)


def test_who_speaks_no_tls_is_turned_away_without_a_word_in_the_log(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    context = make_context(FakeGenerator(lambda *_: text_tokens("hello")))

    async def work(server: HttpServer, url: str) -> None:
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            await writer.drain()
            # An alert of TLS at most, and the end.
            assert b"HTTP/1.1" not in await asyncio.wait_for(reader.read(), 60)
            writer.close()
        stranger = ssl.create_default_context()
        async with httpx.AsyncClient(base_url=url, verify=stranger) as client:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.get("/health")
        async with httpx.AsyncClient(base_url=url, verify=trusting(files)) as client:
            assert (await client.get("/health")).status_code == 200

    with caplog.at_level(logging.WARNING):
        served(context, files, work)
    assert not caplog.records


def test_a_new_certificate_is_shown_to_new_connections(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "LOOK_EVERY_S", 0.0)
    context = make_context(FakeGenerator(lambda *_: text_tokens("hello")))

    async def work(server: HttpServer, url: str) -> None:
        first = httpx.AsyncClient(base_url=url, verify=trusting(files))
        assert (await first.get("/health")).status_code == 200
        Authority("next").issue(files.folder, "127.0.0.1")
        async with httpx.AsyncClient(base_url=url, verify=trusting(files)) as second:
            assert (await second.get("/health")).status_code == 200
        # A connection that was open stays so.
        assert (await first.get("/health")).status_code == 200
        await first.aclose()

    served(context, files, work)


async def test_the_grpc_port_speaks_tls_without_client_certificates(files: Files) -> None:
    context = make_context(FakeGenerator())
    server = RpcServer(context, "127.0.0.1", 0, identities(files))
    await server.start()
    try:
        address = f"127.0.0.1:{server.port}"
        ours = grpc.ssl_channel_credentials(files.ca.read_bytes())
        for channel, code in (
            (grpc.aio.secure_channel(address, ours), None),
            (grpc.aio.insecure_channel(address), grpc.StatusCode.UNAVAILABLE),
        ):
            async with channel:
                stub = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
                request = health_pb2.HealthCheckRequest()
                if code is None:
                    assert (await stub.Check(request, timeout=60)).status
                else:
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await stub.Check(request, timeout=60)
                    assert caught.value.code() is code
    finally:
        await server.stop(0)
