"""The store's interface: leases and small documents under string keys, with a watch; and limits.

Every implementation behaves alike; `tests/unit/store` and `tests/integration/test_store_redis.py`
run the same tests against each. Keys are relative to the deployment's prefix.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Literal, Protocol

from baton.core.errors import BatonError, UnavailableError
from baton.store.limits import LimitResult, LimitStep
from baton.telemetry.logging import event

# How long an operation may take before the store counts as down.
TIMEOUT_S = 2.0
MAX_KEY_BYTES = 512
MAX_VALUE_BYTES = 2**20
# Waits of a watch between attempts to reach the store, in seconds.
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 2.0
KEEPS_TRYING = (
    "tries again until it answers; what is known keeps serving, and no worker is found or "
    "registered before: start the store, or check --store"
)


class StoreUnavailableError(UnavailableError):
    """The store does not answer. `str()` says which and why, for operators; `message`, which
    clients of the API may see, does not: where a deployment's store is, is not theirs to know.
    """

    def __init__(self, detail: str) -> None:
        super().__init__("the store does not answer now")
        self._detail = detail

    def __str__(self) -> str:
        return self._detail


class StoreRefusesError(StoreUnavailableError):
    """The store answers, and refuses this deployment's token, user or password."""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A change under a watched prefix; `value` is empty unless the kind is put.

    deleted: by a caller. expired: its TTL ran out, or it vanished while the watch was cut off.
    synced: everything before it was the state at the start, or after a reconnect; no key.
    """

    kind: Literal["put", "deleted", "expired", "synced"]
    key: str = ""
    value: bytes = b""


class Store(Protocol):
    """Every operation raises StoreUnavailableError, within seconds, when the store is down.

    StoreRefusesError is one of them; ValueError means that a key, value or TTL is out of bounds.
    """

    async def put(self, key: str, value: bytes, ttl_s: float | None = None) -> None:
        """Set a key; with a TTL it expires unless it is put again. Without one it stays.

        Putting the value that is there renews the TTL and is no change to watchers.
        """

    async def claim(
        self, key: str, value: bytes, ttl_s: float | None, *, replaces: bytes | None = None
    ) -> bytes | None:
        """Put, unless the key holds something other than `value` and `replaces`. Atomic.

        Returns None when it was put, else what the key holds.
        """

    async def get(self, key: str) -> bytes | None:
        """The value, or None when there is none (any more)."""

    async def delete(self, key: str) -> bool:
        """Remove a key; False when there was none."""

    async def list(self, prefix: str) -> dict[str, bytes]:
        """All entries whose keys begin with `prefix`, in key order."""

    def watch(self, prefix: str) -> AsyncIterator[WatchEvent]:
        """The entries under `prefix` as puts, `synced`, then changes as they happen.

        While the store is down it waits and tries again; then it sends all entries once more as
        puts, those that vanished as expired, and `synced`. It ends when the store is closed, and
        raises nothing of its own.
        """

    async def limit(self, steps: Sequence[LimitStep]) -> Sequence[LimitResult]:
        """Take from limits, settle, hold: each step at once, in this order.

        The state is the store's, under the limits' names, apart from all keys; no watch shows it.
        When it raises, the steps may or may not have been carried out.
        """

    async def put_documents(self, documents: Mapping[str, bytes], ttl_s: float) -> None:
        """Set many in one go, to be had with `get_document` until they expire.

        They have names of their own, apart from all keys: no list, watch or `get` shows them, so
        that there may be as many as memory allows. When it raises, some may have been set.
        """

    async def get_document(self, name: str) -> bytes | None:
        """What was put under the name, or None when there is none (any more)."""

    async def close(self) -> None:
        """Drop the connections; watches end. Entries stay."""


def check_key(key: str) -> None:
    """Raise ValueError for keys that some store could not hold."""
    if not key or len(key.encode()) > MAX_KEY_BYTES or not key.isprintable():
        raise ValueError(
            f"store keys are 1 to {MAX_KEY_BYTES} bytes of printable text, got {key[:80]!r}"
        )


def check_entry(key: str, value: bytes, ttl_s: float | None) -> None:
    """Raise ValueError for entries out of bounds."""
    check_key(key)
    if len(value) > MAX_VALUE_BYTES:
        raise ValueError(f"store values are at most {MAX_VALUE_BYTES} bytes, got {len(value)}")
    check_ttl(ttl_s)


def check_ttl(ttl_s: float | None) -> None:
    """Raise ValueError for a TTL that is not a positive number of seconds (a year at most)."""
    if ttl_s is not None and not 0 < ttl_s <= 366 * 86400:
        raise ValueError(f"a TTL is above 0 and at most a year, got {ttl_s} s")


class Outage:
    """Remembers whether the store is down, so that it is logged once per outage."""

    def __init__(self, log: logging.Logger, url: str) -> None:
        self._logger = log
        self._url = url
        self._down = False

    def failed(self, error: Exception) -> None:
        if not self._down:
            self._logger.warning(
                *event("store_down", url=self._url, error=error, hint=KEEPS_TRYING)
            )
        self._down = True

    def works(self) -> None:
        if self._down:
            self._logger.warning(*event("store_back", url=self._url))
        self._down = False


async def pause(closed: asyncio.Event, seconds: float) -> None:
    """Sleep, or until the store is closed."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await closed.wait()


async def watch_for_ever(
    watch_once: Callable[[], AsyncGenerator[WatchEvent, None]],
    outage: Outage,
    closed: asyncio.Event,
) -> AsyncGenerator[WatchEvent, None]:
    """The events of one watch after another, with growing pauses, until the store is closed.

    Failures are told to `outage` and never raised.
    """
    backoff_s = FIRST_BACKOFF_S
    while not closed.is_set():
        try:
            async with aclosing(watch_once()) as changes:
                async for change in changes:
                    if change.kind == "synced":
                        outage.works()
                        backoff_s = FIRST_BACKOFF_S
                    yield change
        except BatonError as error:
            if closed.is_set():
                return
            outage.failed(error)
        await pause(closed, backoff_s)
        backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
