"""Keeps one key alive in the store, from a thread of its own.

A worker's loop may be busy for longer than a lease lives; its lease must not expire for that. While
the store is down the keeper goes on trying, and writes the lease again when it answers.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

from baton.core.errors import BatonError
from baton.core.redact import redact_url
from baton.store import base
from baton.store.base import Outage, Store
from baton.store.connect import open_store
from baton.telemetry.logging import event

log = logging.getLogger(__name__)


class LeaseKeeper:
    """Puts `value()` under `key` with a TTL, again every `renew_s`, until it is stopped.

    `value` is called on the keeper's thread before each write. Methods may be called from any
    thread; from an event loop, `stop` belongs in `asyncio.to_thread`.
    """

    def __init__(
        self,
        url: str,
        token: str,
        prefix: str,
        key: str,
        value: Callable[[], bytes],
        ttl_s: float,
        renew_s: float,
    ) -> None:
        base.check_entry(key, b"", ttl_s)
        self._url, self._token, self._prefix = url, token, prefix
        self._key = key
        self._value = value
        self._ttl_s = ttl_s
        self._renew_s = renew_s
        self._outage = Outage(log, redact_url(url))
        self._registered = threading.Event()
        self._stopping = False
        self._delete = True
        # Both are made on the thread, and are there once start() returns.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Event | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease-{key}", daemon=True)
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Begin; returns before the first write. Raises ConfigError when the URL is wrong."""
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def wait_registered(self, timeout_s: float) -> bool:
        """Wait for the first write; False when it has not been taken in time."""
        return self._registered.wait(timeout_s)

    def update(self) -> None:
        """The value changed: write it now, not at the next renewal."""
        self._wake()

    def stop(self, delete: bool = True) -> None:
        """End the thread. With `delete` the key goes at once, else when its TTL runs out.

        Takes as long as the store may take for an operation. Calling it again does nothing.
        """
        if self._thread.ident is None:
            return
        self._delete = delete
        self._stopping = True
        self._wake()
        self._thread.join()

    def _wake(self) -> None:
        loop, changed = self._loop, self._changed
        if loop is None or changed is None or loop.is_closed():
            return
        try:
            loop.call_soon_threadsafe(changed.set)
        except RuntimeError:
            # The thread ended in between; there is nothing left to wake.
            return

    def _run(self) -> None:
        try:
            asyncio.run(self._keep())
        except BaseException as error:
            self._failure = error
            if self._started.is_set():
                log.exception(*event("lease_keeper_failed", key=self._key))
        finally:
            self._started.set()

    async def _keep(self) -> None:
        store = open_store(self._url, self._token, self._prefix)
        self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        try:
            backoff_s = base.FIRST_BACKOFF_S
            while not self._stopping:
                self._changed.clear()
                if await self._write(store):
                    backoff_s = base.FIRST_BACKOFF_S
                    await base.pause(self._changed, self._renew_s)
                else:
                    await base.pause(self._changed, min(backoff_s, self._renew_s))
                    backoff_s = min(2 * backoff_s, base.MAX_BACKOFF_S)
            if self._delete:
                await self._remove(store)
        finally:
            await store.close()

    async def _write(self, store: Store) -> bool:
        try:
            await store.put(self._key, self._value(), self._ttl_s)
        except BatonError as error:
            self._outage.failed(error)
            return False
        self._outage.works()
        self._registered.set()
        return True

    async def _remove(self, store: Store) -> None:
        try:
            await store.delete(self._key)
        except BatonError as error:
            # It leaves the store with its TTL.
            log.info(*event("lease_not_deleted", key=self._key, error=error))
