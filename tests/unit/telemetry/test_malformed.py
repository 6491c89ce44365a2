"""Bytes that are not a method's message end that call, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from baton.telemetry import rpc
from baton.v1 import store_pb2 as pb

TOKEN = "token"
GARBAGE = b"\xff\xff\xff\xff"
KINDS = {
    "OneToOne": "unary_unary",
    "OneToMany": "unary_stream",
    "OneToWritten": "unary_stream",
    "ManyToOne": "stream_unary",
    "ManyToMany": "stream_stream",
    "ManyToWritten": "stream_stream",
}


class Echo:
    """A handler of every kind; they answer with the keys that they were sent."""

    async def OneToOne(self, request: pb.GetRequest, _: Any) -> pb.GetRequest:
        return request

    async def OneToMany(self, request: pb.GetRequest, _: Any) -> AsyncIterator[pb.GetRequest]:
        yield request

    async def OneToWritten(self, request: pb.GetRequest, context: Any) -> None:
        await context.write(request)

    async def ManyToOne(self, requests: Any, _: Any) -> pb.GetRequest:
        return pb.GetRequest(key="".join([r.key async for r in requests]))

    async def ManyToMany(self, requests: Any, _: Any) -> AsyncIterator[pb.GetRequest]:
        async for request in requests:
            yield request

    async def ManyToWritten(self, requests: Any, context: Any) -> None:
        """Reads in a task of its own, as sessions do."""

        async def read() -> None:
            async for request in requests:
                await context.write(request)

        await context.write(await anext(requests))
        await asyncio.create_task(read())


@asynccontextmanager
async def served() -> AsyncIterator[grpc.aio.Channel]:
    echo = Echo()
    handlers = {
        name: getattr(grpc, f"{kind}_rpc_method_handler")(
            getattr(echo, name), pb.GetRequest.FromString, pb.GetRequest.SerializeToString
        )
        for name, kind in KINDS.items()
    }
    server = rpc.server(TOKEN)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    port = rpc.listen(server, "127.0.0.1", 0)
    await server.start()
    try:
        async with rpc.channel(f"127.0.0.1:{port}", TOKEN) as channel:
            yield channel
    finally:
        await server.stop(0)


async def send(channel: grpc.aio.Channel, name: str, *messages: bytes) -> list[str]:
    call: Any = channel.stream_stream(f"/test/{name}")(iter(messages))
    return [pb.GetRequest.FromString(raw).key async for raw in call]


def key(name: str) -> bytes:
    return pb.GetRequest(key=name).SerializeToString()


@pytest.mark.parametrize("name", KINDS)
async def test_messages_pass(name: str) -> None:
    async with served() as channel:
        assert await send(channel, name, key("a")) == ["a"]
        if name.startswith("Many"):
            assert "".join(await send(channel, name, key("a"), key("b"))) == "ab"


@pytest.mark.parametrize("name", KINDS)
async def test_garbage_is_an_invalid_argument(name: str, caplog: pytest.LogCaptureFixture) -> None:
    async with served() as channel:
        other: Any = channel.stream_stream("/test/ManyToMany")()
        await other.write(key("1"))
        assert await other.read() == key("1")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await send(channel, name, GARBAGE)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert f"/test/{name}" in (caught.value.details() or "")
        # A call that was open goes on, and the connection takes more.
        await other.write(key("2"))
        assert await other.read() == key("2")
        await other.done_writing()
        assert await send(channel, name, key("a")) == ["a"]
    assert not caplog.records


@pytest.mark.parametrize("name", ["ManyToOne", "ManyToMany", "ManyToWritten"])
async def test_garbage_in_the_middle_of_a_stream_ends_it(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with served() as channel:
        call: Any = channel.stream_stream(f"/test/{name}")()
        # Nothing after the garbage: gRPC's client calls it an INTERNAL error when a write meets
        # the call's end, once in some thousand times.
        await call.write(key("a"))
        await call.write(GARBAGE)
        seen = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for raw in call:
                seen.append(raw)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert seen == ([] if name == "ManyToOne" else [key("a")])
    assert not caplog.records
