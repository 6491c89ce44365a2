"""Responses kept in the store, so that later ones go on from them, whichever gateway gets those."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import orjson

from baton.core.errors import UnavailableError
from baton.store.base import MAX_VALUE_BYTES, Store
from baton.telemetry.logging import event

log = logging.getLogger(__name__)
T = TypeVar("T")

_PREFIX = "responses/"
_ID = re.compile(r"resp_[0-9a-f]{32}")
_LARGE_BYTES = 2**16
_LEVEL = 1


class Kept(NamedTuple):
    """A response as clients get it, and its whole conversation as chat templates take it."""

    document: dict[str, Any]
    messages: list[dict[str, Any]]


class KeptResponses:
    """Each tenant sees its own. Of what this gateway keeps, the oldest go beyond `max_bytes`.

    A response holds the whole conversation, so that it outlives those before it.
    """

    def __init__(
        self,
        store: Store,
        ttl_s: float,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._clock = clock
        # Expiry, key and size of what this gateway has put, the oldest first.
        self._mine: deque[tuple[float, str, int]] = deque()
        self._num_bytes = 0

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at all."""
        return self._ttl_s > 0

    async def keep(self, kept: Kept, tenant: str) -> bool:
        """Whether it was kept: the store may be down, and the response may be too large."""
        num_chars = sum(len(message["content"]) for message in kept.messages)
        value = await _off_loop(num_chars, lambda: _pack(kept, tenant))
        if not self.keeps or len(value) > min(MAX_VALUE_BYTES, self._max_bytes):
            return False
        key = _PREFIX + kept.document["id"]
        try:
            await self._make_room(len(value))
            await self._store.put(key, value, self._ttl_s)
        except UnavailableError as error:
            log.warning(*event("response_not_kept", id=kept.document["id"], error=error))
            return False
        self._mine.append((self._clock() + self._ttl_s, key, len(value)))
        self._num_bytes += len(value)
        return True

    async def get(self, response_id: str, tenant: str) -> Kept | None:
        """None when there is none of this id and tenant. Raises StoreUnavailableError."""
        if not _ID.fullmatch(response_id):
            return None
        value = await self._store.get(_PREFIX + response_id)
        if value is None:
            return None
        return await _off_loop(8 * len(value), lambda: _unpack(value, tenant))

    async def delete(self, response_id: str, tenant: str) -> bool:
        """Whether there was one. Raises StoreUnavailableError."""
        if await self.get(response_id, tenant) is None:
            return False
        return await self._store.delete(_PREFIX + response_id)

    async def _make_room(self, num_bytes: int) -> None:
        now = self._clock()
        while self._mine and (
            self._mine[0][0] <= now or self._num_bytes + num_bytes > self._max_bytes
        ):
            _, key, size = self._mine.popleft()
            self._num_bytes -= size
            # Of an expired one a store may still keep the name.
            await self._store.delete(key)


def _pack(kept: Kept, tenant: str) -> bytes:
    document = {"tenant": tenant, "document": kept.document, "messages": kept.messages}
    return zlib.compress(orjson.dumps(document), _LEVEL)


def _unpack(value: bytes, tenant: str) -> Kept | None:
    document = orjson.loads(zlib.decompress(value))
    if document["tenant"] != tenant:
        return None
    return Kept(document["document"], document["messages"])


async def _off_loop(num_bytes: int, work: Callable[[], T]) -> T:
    return work() if num_bytes < _LARGE_BYTES else await asyncio.to_thread(work)
