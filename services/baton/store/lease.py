"""Keeps one key alive in the store, from a thread of its own.

A worker's loop may be busy for longer than a lease lives; its lease must not expire for that. While
the store is down the keeper goes on trying, and writes the lease again when it answers.

A key has one holder. A keeper that finds another's value there looks whether that one lives: it
takes over from the dead, and leaves the key to the living, so that two never overwrite each other
in turns. Of one that does not answer, the lease decides: the dead do not renew theirs.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from enum import Enum

from baton.core.errors import BatonError
from baton.core.redact import redact_url
from baton.store import base
from baton.store.base import Outage, Store
from baton.store.connect import open_store
from baton.telemetry.logging import event

log = logging.getLogger(__name__)

# Pause between two looks at a lease whose holder does not answer.
HELD_POLL_S = 0.5


class Holder(Enum):
    """What a look at the writer of another value under the key found."""

    LIVES = "lives"
    # Or it is the caller itself: its value may be replaced.
    GONE = "gone"
    SILENT = "silent"


class LeaseKeeper:
    """Claims `key` with `value()` and a TTL, again every `renew_s`, until it is stopped.

    `value` is called before each write, `registered` after the first, `look` with the value of
    another holder (it must not raise), and `lost` with the value of the living holder that a keeper
    finds after its start; it has ended then. All on the keeper's thread. Methods may be called from
    any thread; from an event loop, `start` and `stop` belong in `asyncio.to_thread`.
    """

    def __init__(
        self,
        url: str,
        token: str,
        prefix: str,
        key: str,
        value: Callable[[], bytes],
        look: Callable[[bytes], Awaitable[Holder]],
        lost: Callable[[bytes], None],
        ttl_s: float,
        renew_s: float,
        registered: Callable[[], None] = lambda: None,
    ) -> None:
        base.check_entry(key, b"", ttl_s)
        self._url, self._token, self._prefix = url, token, prefix
        self._key = key
        self._value = value
        self._look = look
        self._lost = lost
        self._ttl_s = ttl_s
        self._renew_s = renew_s
        self._on_registered = registered
        self._outage = Outage(log, redact_url(url))
        self._registered = threading.Event()
        self._stopping = False
        self._delete = True
        # What is there of ours, and the living holder for whom the keeper ended.
        self._written: bytes | None = None
        self._holder: bytes | None = None
        # Both are made on the thread, and are there once start() returns.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Event | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease-{key}", daemon=True)
        self._failure: BaseException | None = None

    def start(self) -> bytes | None:
        """Begin; None once the lease is written, or the store turns out to be down.

        Otherwise the value of the living holder of the key: the keeper has ended then. Raises
        ConfigError when the URL is wrong.
        """
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self._holder

    def wait_registered(self, timeout_s: float = 0.0) -> bool:
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
        if self._holder is not None and self._started.is_set():
            self._lost(self._holder)
        self._started.set()

    async def _keep(self) -> None:
        store = open_store(self._url, self._token, self._prefix)
        self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()
        try:
            await self._claim_again_and_again(store, self._changed)
            if self._delete and self._written is not None:
                await self._remove(store, self._written)
        finally:
            await store.close()

    async def _claim_again_and_again(self, store: Store, changed: asyncio.Event) -> None:
        """Returns when the keeper is stopped, or `_holder` is set."""
        now = asyncio.get_running_loop().time
        backoff_s = base.FIRST_BACKOFF_S
        silent: bytes | None = None
        silent_until = 0.0
        while not self._stopping:
            changed.clear()
            try:
                holder, lives = await self._claim(store)
            except BatonError as error:
                self._outage.failed(error)
                self._started.set()
                await base.pause(changed, min(backoff_s, self._renew_s))
                backoff_s = min(2 * backoff_s, base.MAX_BACKOFF_S)
                continue
            self._outage.works()
            backoff_s = base.FIRST_BACKOFF_S
            if holder is None:
                silent = None
                if not self._registered.is_set():
                    self._registered.set()
                    self._on_registered()
                self._started.set()
                await base.pause(changed, self._renew_s)
                continue
            if holder != silent:
                silent, silent_until = holder, now() + self._ttl_s + self._renew_s
                if not lives:
                    log.warning(*event("lease_held", key=self._key, wait_s=self._ttl_s))
            if lives or now() >= silent_until:
                self._holder, self._written = holder, None
                return
            await base.pause(changed, min(HELD_POLL_S, self._renew_s))

    async def _claim(self, store: Store) -> tuple[bytes | None, bool]:
        """Write the lease, over a dead holder's. Else the other holder, and whether it lives."""
        value = self._value()
        replaces = self._written
        while True:
            holder = await store.claim(self._key, value, self._ttl_s, replaces=replaces)
            if holder is None:
                self._written = value
                return None, False
            found = await self._look(holder)
            if found is not Holder.GONE:
                return holder, found is Holder.LIVES
            replaces = holder

    async def _remove(self, store: Store, written: bytes) -> None:
        try:
            # It may be somebody else's by now.
            if await store.claim(self._key, written, self._ttl_s, replaces=written) is None:
                await store.delete(self._key)
        except BatonError as error:
            # It leaves the store with its TTL.
            log.info(*event("lease_not_deleted", key=self._key, error=error))
