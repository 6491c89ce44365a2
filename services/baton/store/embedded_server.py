"""The embedded store's server: a small gRPC service inside the first gateway process.

It lives in memory and dies with its process: workers write their leases again when a new one
answers. What has no TTL may be kept in a file. The state itself is `store.state`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from baton.core.clock import Clock, monotonic
from baton.store import base
from baton.store.entry_file import load_entries, save_entries
from baton.store.limits import (
    Charge,
    Limit,
    LimitKind,
    LimitStep,
    LimitTable,
    Verb,
    check_steps,
)
from baton.store.state import StoreState, Watcher
from baton.telemetry.logging import event
from baton.v1 import store_pb2 as pb
from baton.v1 import store_pb2_grpc as pb_grpc

log = logging.getLogger(__name__)

_KINDS = {
    "put": pb.WatchResponse.KIND_PUT,
    "deleted": pb.WatchResponse.KIND_DELETED,
    "expired": pb.WatchResponse.KIND_EXPIRED,
    "synced": pb.WatchResponse.KIND_SYNCED,
}


class EmbeddedStoreServer(pb_grpc.StoreServiceServicer):
    """The service. Add it to a server of `rpc.server`; `close` ends its timer."""

    def __init__(
        self,
        clock: Clock = monotonic,
        max_watch_events: int = 10_000,
        file: Path | None = None,
    ) -> None:
        """Lasting entries are kept in `file`. Raises ConfigError when it cannot be read."""
        self._state = StoreState(max_watch_events)
        self._file = file
        self._saving = asyncio.Lock()
        if file is not None:
            for key, value in load_entries(file).items():
                self._state.put(clock(), key, value, None)
        self._limits = LimitTable()
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
        if ttl_s is None:
            await self._save(context)
        return pb.PutResponse()

    async def PutAll(self, request: pb.PutAllRequest, context: Any) -> pb.PutAllResponse:
        ttl_s = request.ttl_s or None
        now = self._clock()
        for entry in request.entries:
            await _check(context, base.check_entry, entry.key, entry.value, ttl_s)
            self._state.put(now, entry.key, entry.value, ttl_s)
        self._arm()
        return pb.PutAllResponse()

    async def Claim(self, request: pb.ClaimRequest, context: Any) -> pb.ClaimResponse:
        ttl_s = request.ttl_s or None
        await _check(context, base.check_entry, request.key, request.value, ttl_s)
        replaces = request.replaces if request.HasField("replaces") else None
        holder = self._state.claim(self._clock(), request.key, request.value, ttl_s, replaces)
        self._arm()
        if ttl_s is None and holder is None:
            await self._save(context)
        return pb.ClaimResponse(holder=holder)

    async def Get(self, request: pb.GetRequest, context: Any) -> pb.GetResponse:
        value = self._state.get(self._clock(), request.key)
        return pb.GetResponse(found=value is not None, value=value or b"")

    async def Delete(self, request: pb.DeleteRequest, context: Any) -> pb.DeleteResponse:
        found = self._state.delete(self._clock(), request.key)
        if found:
            await self._save(context)
        return pb.DeleteResponse(found=found)

    async def List(self, request: pb.ListRequest, context: Any) -> pb.ListResponse:
        entries = self._state.list(self._clock(), request.prefix)
        return pb.ListResponse(entries=[pb.Entry(key=k, value=v) for k, v in entries.items()])

    async def Limit(self, request: pb.LimitRequest, context: Any) -> pb.LimitResponse:
        try:
            steps = [_step(step) for step in request.steps]
            check_steps(steps)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise
        now_us = int(self._clock() * 1e6)
        results = [self._limits.apply(now_us, step) for step in steps]
        return pb.LimitResponse(
            results=[
                pb.LimitResult(
                    granted=result.granted,
                    levels=[pb.LimitLevel(left=v.left, reset_us=v.reset_us) for v in result.levels],
                )
                for result in results
            ]
        )

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

    async def _save(self, context: Any) -> None:
        """Write the lasting entries, if they are kept."""
        if self._file is None:
            return
        async with self._saving:
            try:
                await asyncio.to_thread(save_entries, self._file, self._state.lasting())
            except OSError as error:
                log.error(*event("store_file_not_written", file=self._file, error=error))
                await context.abort(
                    grpc.StatusCode.INTERNAL, f"store.file cannot be written: {error.strerror}"
                )

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


def _step(step: pb.LimitStep) -> LimitStep:
    """Raises ValueError for verbs and kinds that there are not."""
    charges = [
        Charge(Limit(c.name, LimitKind(c.kind), c.bound, c.window_ms), c.amount)
        for c in step.charges
    ]
    return LimitStep(Verb(step.verb), step.holder, tuple(charges))


async def _drain(watcher: Watcher) -> AsyncIterator[pb.WatchResponse]:
    while watcher.events:
        change = watcher.events.popleft()
        yield pb.WatchResponse(kind=_KINDS[change.kind], key=change.key, value=change.value)


async def _check(context: Any, check: Any, *args: Any) -> None:
    try:
        check(*args)
    except ValueError as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
