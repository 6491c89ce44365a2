"""The embedded store: a small gRPC service inside the first gateway process, and its client.

It lives in memory and dies with its process: workers write their leases again when a new one
answers. The state itself is `store.state`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import Any, TypeVar

import grpc

from baton.core.clock import Clock, monotonic
from baton.core.errors import InvalidRequestError, UnauthenticatedError
from baton.store import base
from baton.store.base import Outage, StoreUnavailableError, WatchEvent
from baton.store.state import StoreState, Watcher
from baton.store.view import View
from baton.telemetry import rpc
from baton.v1 import store_pb2 as pb
from baton.v1 import store_pb2_grpc as pb_grpc

log = logging.getLogger(__name__)
T = TypeVar("T")

_KINDS = {
    "put": pb.WatchResponse.KIND_PUT,
    "deleted": pb.WatchResponse.KIND_DELETED,
    "expired": pb.WatchResponse.KIND_EXPIRED,
    "synced": pb.WatchResponse.KIND_SYNCED,
}
_NAMES: dict[int, Any] = {number: name for name, number in _KINDS.items()}
_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]


class EmbeddedStoreServer(pb_grpc.StoreServiceServicer):
    """The service. Add it to a server of `rpc.server`; `close` ends its timer."""

    def __init__(self, clock: Clock = monotonic, max_watch_events: int = 10_000) -> None:
        self._state = StoreState(max_watch_events)
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None

    def add_to_server(self, server: grpc.aio.Server) -> None:
        pb_grpc.add_StoreServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def Put(self, request: pb.PutRequest, context: Any) -> pb.PutResponse:
        ttl_s = request.ttl_s or None
        await _check(context, base.check_entry, request.key, request.value, ttl_s)
        self._state.put(self._clock(), request.key, request.value, ttl_s)
        self._arm()
        return pb.PutResponse()

    async def Claim(self, request: pb.ClaimRequest, context: Any) -> pb.ClaimResponse:
        ttl_s = request.ttl_s
        await _check(context, base.check_entry, request.key, request.value, ttl_s)
        replaces = request.replaces if request.HasField("replaces") else None
        holder = self._state.claim(self._clock(), request.key, request.value, ttl_s, replaces)
        self._arm()
        return pb.ClaimResponse(holder=holder)

    async def Get(self, request: pb.GetRequest, context: Any) -> pb.GetResponse:
        value = self._state.get(self._clock(), request.key)
        return pb.GetResponse(found=value is not None, value=value or b"")

    async def Delete(self, request: pb.DeleteRequest, context: Any) -> pb.DeleteResponse:
        return pb.DeleteResponse(found=self._state.delete(self._clock(), request.key))

    async def List(self, request: pb.ListRequest, context: Any) -> pb.ListResponse:
        entries = self._state.list(self._clock(), request.prefix)
        return pb.ListResponse(entries=[pb.Entry(key=k, value=v) for k, v in entries.items()])

    async def Increment(self, request: pb.IncrementRequest, context: Any) -> pb.IncrementResponse:
        ttl_s = request.ttl_s or None
        await _check(context, base.check_entry, request.key, b"", ttl_s)
        try:
            value = self._state.increment(self._clock(), request.key, request.by, ttl_s)
        except InvalidRequestError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.message)
            raise
        self._arm()
        return pb.IncrementResponse(value=value)

    async def Watch(
        self, request: pb.WatchRequest, context: Any
    ) -> AsyncIterator[pb.WatchResponse]:
        wake = asyncio.Event()
        watcher = self._state.watch(self._clock(), request.prefix, wake.set)
        try:
            while True:
                async for response in _drain(watcher):
                    yield response
                if watcher.lost:
                    await context.abort(
                        grpc.StatusCode.ABORTED, "the watcher fell behind; watch again"
                    )
                await wake.wait()
                wake.clear()
        finally:
            self._state.unwatch(watcher)

    def num_watchers(self) -> int:
        """Open watches; for tests of leaks."""
        return self._state.num_watchers()

    def _arm(self) -> None:
        """Keep a timer at the next expiry, so that watchers hear of it without any request."""
        due = self._state.next_expiry()
        if due is None or (self._timer is not None and self._timer.when() <= self._at(due)):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._at(due), self._sweep)

    def _at(self, due: float) -> float:
        return asyncio.get_running_loop().time() + max(0.0, due - self._clock())

    def _sweep(self) -> None:
        self._timer = None
        self._state.expire(self._clock())
        self._arm()


async def _drain(watcher: Watcher) -> AsyncIterator[pb.WatchResponse]:
    while watcher.events:
        event = watcher.events.popleft()
        yield pb.WatchResponse(kind=_KINDS[event.kind], key=event.key, value=event.value)


async def _check(context: Any, check: Any, *args: Any) -> None:
    try:
        check(*args)
    except ValueError as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))


class EmbeddedStore:
    """Client of an EmbeddedStoreServer at `grpc://HOST:PORT`; a `store.base.Store`."""

    def __init__(
        self, url: str, token: str, prefix: str, timeout_s: float = base.TIMEOUT_S
    ) -> None:
        self._url = url
        self._prefix = f"{prefix}/"
        self._timeout_s = timeout_s
        self._channel = rpc.channel(url.removeprefix("grpc://").rstrip("/"), token)
        self._stub: Any = pb_grpc.StoreServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._closed = asyncio.Event()

    async def put(self, key: str, value: bytes, ttl_s: float | None = None) -> None:
        base.check_entry(key, value, ttl_s)
        request = pb.PutRequest(key=self._prefix + key, value=value, ttl_s=ttl_s or 0.0)
        await self._unary(self._stub.Put, request)

    async def claim(
        self, key: str, value: bytes, ttl_s: float, *, replaces: bytes | None = None
    ) -> bytes | None:
        base.check_entry(key, value, ttl_s)
        request = pb.ClaimRequest(
            key=self._prefix + key, value=value, ttl_s=ttl_s, replaces=replaces
        )
        response = await self._unary(self._stub.Claim, request)
        return response.holder if response.HasField("holder") else None

    async def get(self, key: str) -> bytes | None:
        base.check_key(key)
        request = pb.GetRequest(key=self._prefix + key)
        response = await self._unary(self._stub.Get, request)
        return response.value if response.found else None

    async def delete(self, key: str) -> bool:
        base.check_key(key)
        request = pb.DeleteRequest(key=self._prefix + key)
        response = await self._unary(self._stub.Delete, request)
        return bool(response.found)

    async def list(self, prefix: str) -> dict[str, bytes]:
        request = pb.ListRequest(prefix=self._prefix + prefix)
        response = await self._unary(self._stub.List, request)
        return {entry.key.removeprefix(self._prefix): entry.value for entry in response.entries}

    async def increment(self, key: str, by: int = 1, ttl_s: float | None = None) -> int:
        base.check_entry(key, b"", ttl_s)
        base.check_increment(by)
        request = pb.IncrementRequest(key=self._prefix + key, by=by, ttl_s=ttl_s or 0.0)
        response = await self._unary(self._stub.Increment, request)
        return int(response.value)

    def watch(self, prefix: str) -> AsyncIterator[WatchEvent]:
        view = View()
        outage = Outage(log, self._url)
        return base.watch_for_ever(lambda: self._watch_once(prefix, view), outage, self._closed)

    async def close(self) -> None:
        self._closed.set()
        await self._channel.close(None)

    async def _watch_once(self, prefix: str, view: View) -> AsyncGenerator[WatchEvent, None]:
        """One stream's events; returns when it has to be opened again."""
        call = self._stub.Watch(pb.WatchRequest(prefix=self._prefix + prefix))
        initial: dict[str, bytes] | None = {}
        try:
            while (response := await self._call(call.read())) is not _EOF:
                event = WatchEvent(
                    _NAMES[response.kind], response.key.removeprefix(self._prefix), response.value
                )
                if initial is None:
                    changes = view.apply(event)
                elif event.kind == "synced":
                    changes = view.resync(initial)
                    initial = None
                else:
                    initial[event.key] = event.value
                    changes = []
                for change in changes:
                    yield change
        except _WatchAgain:
            return
        finally:
            call.cancel()

    async def _unary(self, method: Any, request: Any) -> Any:
        if self._closed.is_set():
            raise StoreUnavailableError(f"the connection to {self._url} is closed")
        return await self._call(method(request, timeout=self._timeout_s))

    async def _call(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed.is_set() and task is not None and not task.cancelling():
                # Closing the channel cancels its calls, not the task that waits for them.
                raise StoreUnavailableError(f"the connection to {self._url} was closed") from None
            raise

    def _translate(self, error: grpc.aio.AioRpcError) -> Exception:
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.ABORTED:
            return _WatchAgain(details)
        if code is grpc.StatusCode.UNAUTHENTICATED:
            return UnauthenticatedError(f"the store at {self._url} refuses us: {details}")
        if code is grpc.StatusCode.FAILED_PRECONDITION:
            # Callers know their keys without the prefix.
            return InvalidRequestError(details.replace(f"'{self._prefix}", "'", 1))
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return ValueError(details)
        return StoreUnavailableError(
            f"the store at {self._url} does not answer ({code.name}: {details})"
        )


class _WatchAgain(Exception):
    """The server dropped a watch that fell behind: no outage, start again at once."""
