"""Both ends of calls for tests of streams: a server of one method, and what is sent there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from baton.v1 import stream_pb2, transfer_pb2
from baton.wire.streams.framing import PREFACE, Kind, frame
from baton.wire.streams.methods import HANDOFF
from baton.wire.streams.server import StreamServer
from baton.wire.streams.stream import Stream

TOKEN = "streams-test-token"
Callee = Stream[transfer_pb2.HandoffResponse, transfer_pb2.HandoffRequest]
Handler = Callable[[Callee], Awaitable[None]]


def request(number: int = 1) -> transfer_pb2.HandoffRequest:
    return transfer_pb2.HandoffRequest(message=transfer_pb2.HandoffMessage(attempt=number))


def response(number: int = 1) -> transfer_pb2.HandoffResponse:
    return transfer_pb2.HandoffResponse(message=transfer_pb2.HandoffMessage(attempt=number))


async def echo(callee: Callee) -> None:
    async for message in callee:
        callee.send(transfer_pb2.HandoffResponse(message=message.message))


@asynccontextmanager
async def serving(handler: Handler = echo) -> AsyncIterator[StreamServer]:
    it = StreamServer("127.0.0.1", 0, TOKEN)
    it.add(HANDOFF, handler)
    await it.start()
    try:
        yield it
    finally:
        await it.stop(0)


def opening(method: str = HANDOFF.name) -> bytes:
    start = stream_pb2.StreamOpen(method=method, token=TOKEN)
    return PREFACE + frame(Kind.OPEN, start.SerializeToString())
