"""The part of a Store that discovery uses, in memory, with expiry at the test's command."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence

from baton.store.base import StoreUnavailableError, WatchEvent
from baton.store.limits import LimitResult, LimitStep, LimitTable


class MemoryStore:
    def __init__(self) -> None:
        self._entries: dict[str, bytes] = {}
        self._queues: list[asyncio.Queue[WatchEvent]] = []
        self._limits = LimitTable()
        self.documents: dict[str, bytes] = {}
        self.is_down = False

    async def put(self, key: str, value: bytes, ttl_s: float | None = None) -> None:
        del ttl_s
        if self.is_down:
            raise StoreUnavailableError("the store is down")
        if self._entries.get(key) != value:
            self._entries[key] = value
            self._tell(WatchEvent("put", key, value))

    async def claim(
        self, key: str, value: bytes, ttl_s: float | None, *, replaces: bytes | None = None
    ) -> bytes | None:
        holder = self._entries.get(key)
        if holder is not None and holder not in (value, replaces):
            return holder
        await self.put(key, value, ttl_s)
        return None

    async def get(self, key: str) -> bytes | None:
        if self.is_down:
            raise StoreUnavailableError("the store is down")
        return self._entries.get(key)

    async def put_documents(self, documents: Mapping[str, bytes], ttl_s: float) -> None:
        del ttl_s
        if self.is_down:
            raise StoreUnavailableError("the store is down")
        self.documents.update(documents)

    async def get_document(self, name: str) -> bytes | None:
        if self.is_down:
            raise StoreUnavailableError("the store is down")
        return self.documents.get(name)

    async def delete(self, key: str) -> bool:
        return self._remove(key, WatchEvent("deleted", key))

    def expire(self, key: str) -> bool:
        return self._remove(key, WatchEvent("expired", key))

    async def list(self, prefix: str) -> dict[str, bytes]:
        return {k: v for k, v in sorted(self._entries.items()) if k.startswith(prefix)}

    async def watch(self, prefix: str) -> AsyncIterator[WatchEvent]:
        queue: asyncio.Queue[WatchEvent] = asyncio.Queue()
        for key, value in (await self.list(prefix)).items():
            queue.put_nowait(WatchEvent("put", key, value))
        queue.put_nowait(WatchEvent("synced"))
        self._queues.append(queue)
        while True:
            event = await queue.get()
            if event.key.startswith(prefix) or event.kind == "synced":
                yield event

    async def limit(self, steps: Sequence[LimitStep]) -> list[LimitResult]:
        if self.is_down:
            raise StoreUnavailableError("the store is down")
        now_us = int(time.monotonic() * 1e6)
        return [self._limits.apply(now_us, step) for step in steps]

    async def close(self) -> None:
        self._queues.clear()

    def _remove(self, key: str, event: WatchEvent) -> bool:
        if self._entries.pop(key, None) is None:
            return False
        self._tell(event)
        return True

    def _tell(self, event: WatchEvent) -> None:
        for queue in self._queues:
            queue.put_nowait(event)
