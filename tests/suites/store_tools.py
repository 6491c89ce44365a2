"""A store's server and watch in a test's hands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Protocol

import pytest

from baton.store.base import Store, StoreUnavailableError, WatchEvent

# Nothing here takes this long; it only keeps a broken store from hanging the suite.
PATIENCE_S = 30


class Backend(Protocol):
    """A store's server, under the test's control."""

    url: str

    def open(self, prefix: str = "p", timeout_s: float = 5.0) -> Store:
        """A client; the backend closes it at the end of the test."""

    async def stop(self) -> None:
        """Take the server down. What it held is lost."""

    async def start(self) -> None:
        """Bring it back at the same address, empty."""

    async def freeze(self) -> None:
        """Let it take connections and answer nothing."""


class Watch:
    """A watch that is read one event at a time."""

    def __init__(self, events: Any) -> None:
        self._events = events

    async def next(self) -> WatchEvent:
        async with asyncio.timeout(PATIENCE_S):
            event: WatchEvent = await anext(self._events)
            return event

    async def until(self, kind: str, key: str = "") -> list[WatchEvent]:
        """Events up to and with the first of this kind (and key)."""
        seen = [await self.next()]
        while seen[-1].kind != kind or (key and seen[-1].key != key):
            seen.append(await self.next())
        return seen


@asynccontextmanager
async def watching(store: Store, prefix: str) -> AsyncIterator[Watch]:
    events: Any = store.watch(prefix)
    async with aclosing(events):
        yield Watch(events)


def follow(entries: dict[str, bytes], event: WatchEvent) -> None:
    """Bring `entries` up to date by one event."""
    if event.kind == "put":
        entries[event.key] = event.value
    elif event.kind != "synced":
        del entries[event.key]


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The names of the events that were logged."""
    return [message.split(" ")[0] for message in caplog.messages]


async def when_up(store: Store) -> None:
    """Wait until the store answers."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await store.get("ping")
            except StoreUnavailableError:
                await asyncio.sleep(0.02)
            else:
                return
