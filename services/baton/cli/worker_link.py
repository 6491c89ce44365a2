"""The way from a command to one worker: found in the store, asked over gRPC."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar, cast

import grpc

from baton.cli.store_address import named_store
from baton.cli.token_file import deployment_token
from baton.core.errors import BatonError, UnauthenticatedError, UnavailableError
from baton.core.settings import Settings
from baton.store.connect import open_store
from baton.telemetry import rpc
from baton.v1 import (
    common_pb2,
    session_pb2,
    session_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)
from baton.wire.version import PROTOCOL_MAX

T = TypeVar("T")

# For an answer of the worker, whose sessions say something every second.
TIMEOUT_S = 5.0
_EOF: Any = cast(Any, grpc.aio).EOF


class WorkerLink:
    """`async with WorkerLink(settings, id) as link`. Everything raises BatonErrors that name it."""

    def __init__(self, settings: Settings, worker_id: str) -> None:
        self._store_url = named_store(settings)
        self.worker_id = worker_id
        self._key_prefix = settings.store.key_prefix
        self._token, _ = deployment_token(settings)
        rpc.use_tls(settings.tls)

    async def __aenter__(self) -> WorkerLink:
        leases = await self._leases()
        value = leases.get(self.worker_id)
        if value is None:
            known = ", ".join(leases) or "none"
            raise UnavailableError(f"no worker {self.worker_id!r} in the store; there is: {known}")
        self._lease = common_pb2.WorkerLease.FromString(value)
        self._channel = rpc.channel(self._lease.worker.address, self._token)
        self._stub = worker_pb2_grpc.WorkerServiceStub(self._channel)  # type: ignore[no-untyped-call]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._channel.close(None)

    async def drain(self, reason: str, within_s: float) -> int:
        """Have it drain; returns the submissions that are there still."""
        ask = worker_pb2.DrainRequest(reason=reason, within_ms=int(within_s * 1000))
        answer = await self._answer(self._stub.Drain(ask, timeout=TIMEOUT_S))
        return int(answer.num_running)

    async def undrain(self) -> None:
        """Have it take work again."""
        await self._answer(self._stub.Undrain(worker_pb2.UndrainRequest(), timeout=TIMEOUT_S))

    async def loads(self) -> AsyncGenerator[session_pb2.Load, None]:
        """Its load reports, the newest again every second; ends when the worker has left.

        They come on a session such as gateways hold, so watching a worker changes nothing there.
        """
        stub = session_pb2_grpc.SessionServiceStub(self._channel)  # type: ignore[no-untyped-call]
        call: Any = stub.Session()
        opening = session_pb2.Open(
            session_id=secrets.token_hex(16),
            worker_epoch=self._lease.worker.epoch,
            protocol=min(PROTOCOL_MAX, self._lease.protocol_max),
        )
        load: session_pb2.Load | None = None
        problem: BatonError = UnavailableError(f"{self.worker_id} ended the connection")
        try:
            # If the call is over already, reading says why.
            with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                await call.write(session_pb2.SessionRequest(open=opening))
            while (response := await self._read(call)) is not _EOF:
                if response.frame.HasField("load"):
                    load = response.frame.load
                if load is not None:
                    yield load
        except grpc.aio.AioRpcError as error:
            problem = self._error(error)
        finally:
            call.cancel()
        # A worker that leaves takes its lease along first.
        if self.worker_id in await self._leases():
            raise problem

    async def _read(self, call: Any) -> Any:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await call.read()
        except TimeoutError as error:
            raise UnavailableError(f"no word from {self.worker_id} for {TIMEOUT_S:g} s") from error

    async def _leases(self) -> dict[str, bytes]:
        """All workers' leases by id."""
        store = open_store(self._store_url, self._token, self._key_prefix)
        prefix = "workers/"
        try:
            leases = await store.list(prefix)
        finally:
            await store.close()
        return {key.removeprefix(prefix): value for key, value in leases.items()}

    async def _answer(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error

    def _error(self, error: grpc.aio.AioRpcError) -> BatonError:
        details = error.details() or error.code().name
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return UnauthenticatedError(f"{self.worker_id}: {details}")
        if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
            return UnavailableError(details)
        address = self._lease.worker.address
        return UnavailableError(f"{self.worker_id} at {address} does not answer: {details}")
