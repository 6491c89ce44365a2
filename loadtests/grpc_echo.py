"""A gRPC stream that sends every message back: what a handoff's messages are compared with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from baton.v1 import transfer_pb2

ECHO = "/baton.bench/Echo"


class GrpcEcho:
    """The server's end. Messages are of the same kind as a handoff's."""

    def __init__(self) -> None:
        self._server = grpc.aio.server()
        handler = grpc.stream_stream_rpc_method_handler(
            _echo,
            request_deserializer=transfer_pb2.HandoffRequest.FromString,
            response_serializer=transfer_pb2.HandoffResponse.SerializeToString,
        )
        service, method = ECHO.strip("/").split("/")
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)


async def _echo(requests: AsyncIterator[transfer_pb2.HandoffRequest], context: Any) -> None:
    async for request in requests:
        await context.write(transfer_pb2.HandoffResponse(message=request.message))


class EchoClient:
    """An open stream to an echo, which is read all the time, as a handoff's is.

    To read only once the write has completed would take a tenth longer.
    """

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        stub = self._channel.stream_stream(
            ECHO,
            request_serializer=transfer_pb2.HandoffRequest.SerializeToString,
            response_deserializer=transfer_pb2.HandoffResponse.FromString,
        )
        self._call: Any = stub()  # type: ignore[call-arg]
        # When each answer was there.
        self._answers: asyncio.Queue[float] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())
        message = transfer_pb2.HandoffMessage(handoff_id=bytes(16), attempt=1)
        message.status.SetInParent()
        self._request = transfer_pb2.HandoffRequest(message=message)

    async def _read(self) -> None:
        async for _ in self._call:
            self._answers.put_nowait(time.perf_counter())

    async def round_trip(self) -> float:
        """Seconds until a message is back."""
        began = time.perf_counter()
        await self._call.write(self._request)
        return await self._answers.get() - began

    async def close(self) -> None:
        self._reading.cancel()
        self._call.cancel()
        await self._channel.close(None)
