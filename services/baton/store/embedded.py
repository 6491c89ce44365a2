"""Client of the embedded store that some gateway process serves (`store.embedded_server`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any, TypeVar

import grpc

from baton.store import base
from baton.store.base import Outage, StoreRefusesError, StoreUnavailableError, WatchEvent
from baton.store.limits import Level, LimitResult, LimitStep, check_steps
from baton.store.view import View
from baton.telemetry import rpc
from baton.v1 import store_pb2 as pb
from baton.v1 import store_pb2_grpc as pb_grpc

log = logging.getLogger(__name__)
T = TypeVar("T")

_NAMES: dict[int, Any] = {
    number: name.removeprefix("KIND_").lower() for name, number in pb.WatchResponse.Kind.items()
}
_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]


class EmbeddedStore:
    """Client of an EmbeddedStoreServer at `grpc://HOST:PORT`; a `store.base.Store`."""

    def __init__(
        self, url: str, token: str, prefix: str, timeout_s: float = base.TIMEOUT_S
    ) -> None:
        self._url = url
        self._prefix = f"{prefix}/"
        # No prefix of keys: see `put_documents`.
        self._documents = f"{prefix}~documents/"
        self._timeout_s = timeout_s
        self._channel = rpc.channel(url.removeprefix("grpc://").rstrip("/"), token)
        self._stub: Any = pb_grpc.StoreServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._closed = asyncio.Event()

    async def put(self, key: str, value: bytes, ttl_s: float | None = None) -> None:
        base.check_entry(key, value, ttl_s)
        request = pb.PutRequest(key=self._prefix + key, value=value, ttl_s=ttl_s or 0.0)
        await self._unary(self._stub.Put, request)

    async def claim(
        self, key: str, value: bytes, ttl_s: float | None, *, replaces: bytes | None = None
    ) -> bytes | None:
        base.check_entry(key, value, ttl_s)
        request = pb.ClaimRequest(
            key=self._prefix + key, value=value, ttl_s=ttl_s or 0.0, replaces=replaces
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

    async def put_documents(self, documents: Mapping[str, bytes], ttl_s: float) -> None:
        for name, value in documents.items():
            base.check_entry(name, value, ttl_s)
        entries = [pb.Entry(key=self._documents + k, value=v) for k, v in documents.items()]
        await self._unary(self._stub.PutAll, pb.PutAllRequest(entries=entries, ttl_s=ttl_s))

    async def get_document(self, name: str) -> bytes | None:
        base.check_key(name)
        response = await self._unary(self._stub.Get, pb.GetRequest(key=self._documents + name))
        return response.value if response.found else None

    async def limit(self, steps: Sequence[LimitStep]) -> Sequence[LimitResult]:
        check_steps(steps)
        request = pb.LimitRequest(
            steps=[
                pb.LimitStep(
                    verb=int(step.verb),  # type: ignore[arg-type]
                    holder=step.holder,
                    charges=[
                        pb.Charge(
                            name=self._prefix + c.limit.name,
                            kind=int(c.limit.kind),  # type: ignore[arg-type]
                            bound=c.limit.bound,
                            window_ms=c.limit.window_ms,
                            amount=c.amount,
                        )
                        for c in step.charges
                    ],
                )
                for step in steps
            ]
        )
        response = await self._unary(self._stub.Limit, request)
        return [
            LimitResult(r.granted, tuple(Level(v.left, v.reset_us) for v in r.levels))
            for r in response.results
        ]

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
                told = WatchEvent(
                    _NAMES[response.kind], response.key.removeprefix(self._prefix), response.value
                )
                if initial is None:
                    changes = view.apply(told)
                elif told.kind == "synced":
                    changes = view.resync(initial)
                    initial = None
                else:
                    initial[told.key] = told.value
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
            return StoreRefusesError(f"the store at {self._url} refuses us: {details}")
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return ValueError(details)
        return StoreUnavailableError(
            f"the store at {self._url} does not answer ({code.name}: {details})"
        )


class _WatchAgain(Exception):
    """The server dropped a watch that fell behind: no outage, start again at once."""
