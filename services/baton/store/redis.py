"""The store in Redis, for clusters: one server, a primary behind Sentinels, or a Redis Cluster.

A watch is a subscription, begun before the listing that it starts from; messages carry the version
that they made, so those that the listing already shows are passed over. Redis announces no expiry
by itself: each watch lists again every `rescan_s`, which also repairs whatever a subscription lost.

In a Redis Cluster all keys of a deployment are in one slot, since scripts work on several at once.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from redis import exceptions
from redis.asyncio import RedisCluster
from redis.asyncio.sentinel import MasterNotFoundError

from baton.core.errors import ConfigError
from baton.core.redact import redact_url
from baton.core.redis_acl import cluster_tag
from baton.store import base, redis_limits, redis_scripts
from baton.store.base import Outage, StoreRefusesError, StoreUnavailableError, WatchEvent
from baton.store.limits import LimitResult, LimitStep, check_steps
from baton.store.redis_client import connected
from baton.store.view import View

log = logging.getLogger(__name__)
T = TypeVar("T")

_KINDS: dict[bytes, Any] = {b"p": "put", b"d": "deleted", b"e": "expired"}
RESCAN_S = 1.5
# Of the TTL of what lasts: how soon it is renewed.
RENEWAL_SHARE = 0.1
# The latter is none of the former: no node of a Cluster answers, or nobody has the slot.
_OUTAGES = (exceptions.RedisError, exceptions.RedisClusterException)


class RedisStore:
    """Client of the Redis at a URL that `core.store_url` allows."""

    def __init__(
        self,
        url: str,
        prefix: str,
        timeout_s: float = base.TIMEOUT_S,
        rescan_s: float = RESCAN_S,
        lasting_ttl_s: float | None = None,
    ) -> None:
        """With `lasting_ttl_s`, entries that were given no TTL go so long after the last watch."""
        self._url = redact_url(url)
        self._timeout_s = timeout_s
        self._rescan_s = rescan_s
        self._lasting_ttl_s = lasting_ttl_s
        # When what lasts is to be renewed next, by the loop's clock.
        self._renew_at = 0.0
        self._closed = asyncio.Event()
        # Of the calls under way.
        self._timeouts: set[asyncio.Timeout] = set()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        try:
            self._connected = connected(url, timeout_s)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"store.url {self._url}: {error}") from error
        self._redis = self._connected.client
        if isinstance(self._redis, RedisCluster):
            prefix = cluster_tag(prefix)
        self._entry = f"{prefix}:k:"
        self._document = f"{prefix}:d:"
        self._limit_prefix = f"{prefix}:limit:"
        self._index = f"{prefix}:index"
        self._version = f"{prefix}:version"
        self._lasting = f"{prefix}:lasting"
        self._channel = f"{prefix}:events"
        self._put = self._redis.register_script(redis_scripts.PUT)
        self._claim = self._redis.register_script(redis_scripts.CLAIM)
        self._delete = self._redis.register_script(redis_scripts.DELETE)
        self._list = self._redis.register_script(redis_scripts.LIST)
        self._renew = self._redis.register_script(redis_scripts.RENEW)
        self._limit = self._redis.register_script(redis_limits.LIMIT)

    async def put(self, key: str, value: bytes, ttl_s: float | None = None) -> None:
        base.check_entry(key, value, ttl_s)
        await self._call(self._put(self._keys(key), [self._channel, key, value, _millis(ttl_s)]))

    async def claim(
        self, key: str, value: bytes, ttl_s: float | None, *, replaces: bytes | None = None
    ) -> bytes | None:
        base.check_entry(key, value, ttl_s)
        may_replace = value if replaces is None else replaces
        args: list[str | bytes | int] = [self._channel, key, value, _millis(ttl_s), may_replace]
        holder: Any = await self._call(self._claim(self._keys(key), args))
        return None if holder is None else bytes(holder)

    async def get(self, key: str) -> bytes | None:
        base.check_key(key)
        value: Any = await self._call(self._redis.get(self._entry + key))
        return None if value is None else bytes(value)

    async def delete(self, key: str) -> bool:
        base.check_key(key)
        return bool(await self._call(self._delete(self._keys(key), [self._channel, key])))

    async def list(self, prefix: str) -> dict[str, bytes]:
        return (await self._snapshot(prefix))[0]

    async def put_documents(self, documents: Mapping[str, bytes], ttl_s: float) -> None:
        # Not in the index, which forgets only what is listed.
        for name, value in documents.items():
            base.check_entry(name, value, ttl_s)
        await self._call(self._set_documents(documents, _millis(ttl_s)))

    async def _set_documents(self, documents: Mapping[str, bytes], ttl_ms: int) -> None:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for name, value in documents.items():
                pipeline.set(self._document + name, value, px=ttl_ms)
            await pipeline.execute()

    async def get_document(self, name: str) -> bytes | None:
        base.check_key(name)
        value: Any = await self._call(self._redis.get(self._document + name))
        return None if value is None else bytes(value)

    async def limit(self, steps: Sequence[LimitStep]) -> Sequence[LimitResult]:
        check_steps(steps)
        # The script makes the limits' own keys.
        args = [self._limit_prefix, redis_limits.encode(steps)]
        return redis_limits.decode(await self._call(self._limit([self._lasting], args)))

    def watch(self, prefix: str) -> AsyncIterator[WatchEvent]:
        view = View()
        outage = Outage(log, self._url)
        return base.watch_for_ever(lambda: self._watch_once(prefix, view), outage, self._closed)

    async def close(self) -> None:
        self._closed.set()
        # A call that goes on would connect again, after all has been closed.
        now = asyncio.get_running_loop().time()
        for timeout in self._timeouts:
            if not timeout.expired():
                timeout.reschedule(now)
        await self._is_idle.wait()
        await self._connected.close()

    async def _watch_once(self, prefix: str, view: View) -> AsyncGenerator[WatchEvent, None]:
        """One subscription's events; raises when it breaks."""
        loop = asyncio.get_running_loop()
        if isinstance(self._redis, RedisCluster):
            # A subscription goes where the slot was when a command last asked for it.
            await self._call(self._redis.get(self._version))
        subscription = self._redis.pubsub()
        try:
            await self._call(subscription.subscribe(self._channel))
            # Only from the confirmation on is nothing missed.
            await self._call(subscription.get_message(timeout=self._timeout_s))
            await self._renew_lasting(loop.time())
            entries, version = await self._snapshot(prefix)
            for event in view.resync(entries):
                yield event
            rescan_at = loop.time() + self._rescan_s
            while not self._closed.is_set():
                wait_s = max(0.0, min(rescan_at - loop.time(), self._rescan_s))
                message = await self._call(
                    subscription.get_message(ignore_subscribe_messages=True, timeout=wait_s),
                    timeout_s=self._timeout_s + wait_s,
                )
                if message is not None:
                    change, changed_version = _parse(message["data"])
                    if changed_version > version and change.key.startswith(prefix):
                        for event in view.apply(change):
                            yield event
                if loop.time() >= rescan_at:
                    await self._renew_lasting(loop.time())
                    entries, version = await self._snapshot(prefix)
                    for event in view.compare(entries):
                        yield event
                    rescan_at = loop.time() + self._rescan_s
        finally:
            await subscription.aclose()

    async def _renew_lasting(self, now: float) -> None:
        """Have what was given no TTL go on, in time."""
        if now < self._renew_at:
            return
        ttl_s = self._lasting_ttl_s
        keys = [self._lasting, self._index, self._version]
        await self._call(self._renew(keys, [_millis(ttl_s)]))
        self._renew_at = math.inf if ttl_s is None else now + RENEWAL_SHARE * ttl_s

    async def _snapshot(self, prefix: str) -> tuple[dict[str, bytes], int]:
        """The entries under `prefix` and the version that they are of."""
        # No UTF-8 text has a byte 0xff, so this bound is above every key with the prefix.
        first, last = b"[" + prefix.encode(), b"(" + prefix.encode() + b"\xff"
        found: Sequence[bytes] = await self._call(
            self._list([self._index, self._version], [self._channel, self._entry, first, last])
        )
        pairs = zip(found[1::2], found[2::2], strict=True)
        return {key.decode(): value for key, value in pairs}, int(found[0])

    def _keys(self, key: str) -> Sequence[str]:
        return [self._entry + key, self._index, self._version, self._lasting]

    async def _call(self, call: Awaitable[T], *, timeout_s: float | None = None) -> T:
        if self._closed.is_set():
            # The client would connect again.
            if inspect.iscoroutine(call):
                call.close()
            raise self._closed_error()
        try:
            async with self._bounded(timeout_s or self._timeout_s):
                return await _cancellable(call)
        except (exceptions.AuthenticationError, exceptions.NoPermissionError) as error:
            raise StoreRefusesError(f"the store at {self._url} refuses us: {error}") from error
        except (*_OUTAGES, OSError, TimeoutError) as error:
            raise self._unavailable(error) from error

    @asynccontextmanager
    async def _bounded(self, timeout_s: float) -> AsyncIterator[None]:
        """A call under way: ends after `timeout_s`, or when the store is closed."""
        async with asyncio.timeout(timeout_s) as timeout:
            self._timeouts.add(timeout)
            self._is_idle.clear()
            try:
                yield
            finally:
                self._timeouts.remove(timeout)
                if not self._timeouts:
                    self._is_idle.set()

    def _closed_error(self) -> StoreUnavailableError:
        return StoreUnavailableError(f"the connection to {self._url} is closed")

    def _unavailable(self, error: Exception) -> StoreUnavailableError:
        if self._closed.is_set():
            return self._closed_error()
        reason = str(error) or type(error).__name__
        if isinstance(error, MasterNotFoundError):
            # redis-py's own words have all that it knows of each Sentinel.
            reason = "no Sentinel that answers knows a primary of this name that is up"
        return StoreUnavailableError(f"the store at {self._url} does not answer ({reason})")


async def _cancellable(call: Awaitable[T]) -> T:
    """`call`, whose end never hides that its task was cancelled.

    redis-py relies on asyncio.wait_for, which in Python 3.11 loses a cancellation that comes in the
    same turn of the loop as the end (python/cpython#86296): the task would run for ever.
    """
    task = asyncio.current_task()
    assert task is not None
    num_cancels = task.cancelling()
    try:
        return await call
    finally:
        if task.cancelling() > num_cancels:
            raise asyncio.CancelledError


def _millis(ttl_s: float | None) -> int:
    return 0 if ttl_s is None else math.ceil(ttl_s * 1000)


def _parse(data: bytes) -> tuple[WatchEvent, int]:
    head, _, rest = data.partition(b" ")
    key, _, value = rest.partition(b"\0")
    return WatchEvent(_KINDS[head[:1]], key.decode(), value), int(head[1:])
