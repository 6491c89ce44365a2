"""The token on every hop, and ports that are refused by name."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio  # type: ignore[attr-defined]

from baton.core.errors import ConfigError
from baton.telemetry import rpc
from baton.telemetry.addresses import join_address
from fakes.free_port import free_port

TOKEN = "a-token"
METHODS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def _identity(raw: bytes) -> bytes:
    return raw


class Echo(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """/echo/<kind> answers with what it got, for each of the four kinds of call."""

    def __init__(self) -> None:
        self.num_calls = 0

    def service(self, details: Any) -> Any:
        kind = details.method.rpartition("/")[2]
        if kind not in METHODS:
            return None
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(getattr(self, kind))

    async def unary_unary(self, request: bytes, context: Any) -> bytes:
        self.num_calls += 1
        return request

    async def unary_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self.num_calls += 1
        yield request

    async def stream_unary(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        self.num_calls += 1
        return b"".join([r async for r in requests])

    async def stream_stream(
        self, requests: AsyncIterator[bytes], context: Any
    ) -> AsyncIterator[bytes]:
        self.num_calls += 1
        async for request in requests:
            yield request


def _raw(channel: grpc.aio.Channel) -> Any:
    """For calls with bytes as they are: the stubs insist on serializers."""
    return channel


async def _ask(
    channel: grpc.aio.Channel, kind: str, request: bytes = b"x", *, silent: bool = False
) -> bytes:
    """Call /echo/<kind>. A silent stream sends nothing and stays open."""
    call = getattr(channel, kind)(
        f"/echo/{kind}", request_serializer=_identity, response_deserializer=_identity
    )

    async def requests() -> AsyncIterator[bytes]:
        if silent:
            await asyncio.Event().wait()
        yield request

    started = call(requests() if kind.startswith("stream") else request, timeout=10)
    if kind.endswith("unary"):
        return bytes(await started)
    return b"".join([r async for r in started])


@pytest.fixture
async def echo() -> AsyncIterator[tuple[Echo, str]]:
    handler = Echo()
    server = rpc.server(TOKEN)
    server.add_generic_rpc_handlers((handler,))
    health_pb2_grpc.add_HealthServicer_to_server(health_aio.HealthServicer(), server)
    port = rpc.listen(server, "127.0.0.1", 0)
    await server.start()
    yield handler, f"127.0.0.1:{port}"
    await server.stop(0)


@pytest.mark.parametrize("kind", METHODS)
async def test_calls_with_the_token_are_served(echo: tuple[Echo, str], kind: str) -> None:
    async with rpc.channel(echo[1], TOKEN) as channel:
        assert await _ask(channel, kind) == b"x"


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize(("token", "words"), [("wrong", "not this deployment's"), ("", "not this")])
async def test_calls_with_another_token_are_refused_before_the_handler(
    echo: tuple[Echo, str], kind: str, token: str, words: str
) -> None:
    async with rpc.channel(echo[1], token) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            # A write that meets the refusal would hide its status (see rpc.REFUSE_AFTER_S).
            await _ask(channel, kind, silent=True)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert words in (caught.value.details() or "")
    assert echo[0].num_calls == 0


@pytest.mark.parametrize("kind", METHODS)
async def test_a_stranger_learns_which_setting_is_missing(
    echo: tuple[Echo, str], kind: str
) -> None:
    async with grpc.aio.insecure_channel(echo[1]) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            # A write that meets the refusal would hide its status (see rpc.REFUSE_AFTER_S).
            await _ask(channel, kind, silent=True)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "--token-file" in (caught.value.details() or "")
    assert echo[0].num_calls == 0


async def test_a_stream_of_a_stranger_that_sends_nothing_is_refused_at_once(
    echo: tuple[Echo, str],
) -> None:
    async with grpc.aio.insecure_channel(echo[1]) as channel:
        call = _raw(channel).stream_stream("/echo/stream_stream")()
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stranger_cannot_tell_which_methods_exist(echo: tuple[Echo, str]) -> None:
    async with grpc.aio.insecure_channel(echo[1]) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _raw(channel).unary_unary("/echo/nothing")(b"")
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    async with rpc.channel(echo[1], TOKEN) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _raw(channel).unary_unary("/echo/nothing")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_needs_no_token(echo: tuple[Echo, str]) -> None:
    async with grpc.aio.insecure_channel(echo[1]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_calls_own_metadata_is_kept(echo: tuple[Echo, str]) -> None:
    seen: list[Any] = []

    async def look(request: bytes, context: Any) -> bytes:
        seen.extend(context.invocation_metadata())
        return b""

    echo[0].unary_unary = look  # type: ignore[method-assign]
    async with rpc.channel(echo[1], TOKEN) as channel:
        await _raw(channel).unary_unary("/echo/unary_unary")(b"", metadata=(("x-mine", "1"),))
    assert ("x-mine", "1") in [tuple(pair) for pair in seen]


async def test_messages_beyond_grpcs_default_limit_pass(echo: tuple[Echo, str]) -> None:
    big = bytes(6 * 2**20)
    async with rpc.channel(echo[1], TOKEN) as channel:
        assert await _ask(channel, "unary_unary", big) == big


async def test_a_server_without_a_token_serves_everyone() -> None:
    server = rpc.server(None)
    server.add_generic_rpc_handlers((Echo(),))
    port = rpc.listen(server, "127.0.0.1", 0)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await _ask(channel, "unary_unary") == b"x"
    await server.stop(0)


async def test_an_empty_token_is_no_token() -> None:
    with pytest.raises(ConfigError, match="token_file"):
        rpc.server("")


async def test_a_taken_port_is_refused_by_name() -> None:
    first, second = rpc.server(TOKEN), rpc.server(TOKEN)
    port = rpc.listen(first, "127.0.0.1", 0)
    await first.start()
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}.*in use"):
        rpc.listen(second, "127.0.0.1", port)
    await first.stop(0)
    await second.stop(0)


async def test_a_port_taken_after_the_check_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "check_bindable", lambda host, port: None)
    first, second = rpc.server(TOKEN), rpc.server(TOKEN)
    port = rpc.listen(first, "127.0.0.1", 0)
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}"):
        rpc.listen(second, "127.0.0.1", port)
    await first.stop(0)
    await second.stop(0)


async def test_a_port_taken_on_one_address_of_a_name_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = rpc.server(TOKEN)
        with pytest.raises(ConfigError, match=f"localhost:{port}.*in use"):
            rpc.listen(server, "localhost", port)
        await server.stop(0)


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host"])
async def test_an_address_of_another_machine_is_refused_by_name(host: str) -> None:
    server = rpc.server(TOKEN)
    with pytest.raises(ConfigError, match=host):
        rpc.listen(server, host, 0)
    await server.stop(0)


async def test_a_refused_connection_fails_at_once_and_a_later_server_is_found() -> None:
    port = free_port()
    async with rpc.channel(f"127.0.0.1:{port}", TOKEN) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _ask(channel, "unary_unary")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        server = rpc.server(TOKEN)
        server.add_generic_rpc_handlers((Echo(),))
        rpc.listen(server, "127.0.0.1", port)
        await server.start()
        await asyncio.wait_for(channel.channel_ready(), 30)
        assert await _ask(channel, "unary_unary") == b"x"
        await server.stop(0)


def test_ipv6_addresses_get_brackets() -> None:
    assert join_address("::1", 5) == "[::1]:5"
    assert join_address("[::1]", 5) == "[::1]:5"
    assert join_address("127.0.0.1", 5) == "127.0.0.1:5"
