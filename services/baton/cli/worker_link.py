"""The way from a command to one worker: found in the store, then called."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator

from baton.cli.store_address import named_store
from baton.cli.token_file import deployment_token
from baton.core.errors import BatonError, UnauthenticatedError, UnavailableError
from baton.core.settings import Settings
from baton.store.connect import open_store
from baton.telemetry.deployment_tls import use_tls
from baton.v1 import common_pb2, session_pb2, worker_pb2
from baton.wire.steering import drain_request
from baton.wire.streams.client import ask, dial
from baton.wire.streams.methods import DRAIN, SESSION, UNDRAIN, Method
from baton.wire.streams.status import Code, StreamError
from baton.wire.streams.stream import In, Out, Stream
from baton.wire.version import PROTOCOL_MAX

# For an answer of the worker, whose sessions say something every second.
TIMEOUT_S = 5.0


class WorkerLink:
    """Made by `find`. Everything raises BatonErrors that name the worker."""

    def __init__(self, settings: Settings, worker_id: str) -> None:
        self._store_url = named_store(settings)
        self.worker_id = worker_id
        self._key_prefix = settings.store.key_prefix
        self._token, _ = deployment_token(settings)
        use_tls(settings.tls)
        self._lease = common_pb2.WorkerLease()

    @classmethod
    async def find(cls, settings: Settings, worker_id: str) -> WorkerLink:
        """Raises UnavailableError for one that the store does not know, naming those it does."""
        link = cls(settings, worker_id)
        leases = await link._leases()
        value = leases.get(worker_id)
        if value is None:
            known = ", ".join(leases) or "none"
            raise UnavailableError(f"no worker {worker_id!r} in the store; there is: {known}")
        link._lease = common_pb2.WorkerLease.FromString(value)
        return link

    async def drain(self, reason: str, within_s: float) -> int:
        """Have it drain; returns the submissions that are there still."""
        return (await self._ask(DRAIN, drain_request(reason, within_s))).num_running

    async def undrain(self) -> None:
        """Have it take work again."""
        await self._ask(UNDRAIN, worker_pb2.UndrainRequest())

    async def loads(self) -> AsyncGenerator[session_pb2.Load, None]:
        """Its load reports, the newest again every second; ends when the worker has left.

        They come on a session such as gateways hold, so watching a worker changes nothing there.
        """
        opening = session_pb2.Open(
            session_id=secrets.token_hex(16),
            worker_epoch=self._lease.worker.epoch,
            protocol=min(PROTOCOL_MAX, self._lease.protocol_max),
        )
        load: session_pb2.Load | None = None
        problem: BatonError = UnavailableError(f"{self.worker_id} ended the connection")
        try:
            async with dial(self._lease.worker.address, self._token, SESSION) as stream:
                stream.send(session_pb2.SessionRequest(open=opening))
                while (response := await self._read(stream)) is not None:
                    if response.frame.HasField("load"):
                        load = response.frame.load
                    if load is not None:
                        yield load
        except StreamError as error:
            problem = self._error(error)
        # A worker that leaves takes its lease along first.
        if self.worker_id in await self._leases():
            raise problem

    async def _read(
        self, stream: Stream[session_pb2.SessionRequest, session_pb2.SessionResponse]
    ) -> session_pb2.SessionResponse | None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await stream.read()
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

    async def _ask(self, method: Method[Out, In], request: Out) -> In:
        try:
            return await ask(self._lease.worker.address, self._token, method, request, TIMEOUT_S)
        except StreamError as error:
            raise self._error(error) from error

    def _error(self, error: StreamError) -> BatonError:
        if error.code is Code.UNAUTHENTICATED:
            return UnauthenticatedError(f"{self.worker_id}: {error.details}")
        if error.code is Code.FAILED_PRECONDITION:
            return UnavailableError(error.details)
        return UnavailableError(f"{self.worker_id} does not answer: {error.details}")
