"""The operator's own way to the API server, which a test can close without touching others'."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import yaml

from fakes.link import Link


class ClosableLink(Link):
    """Takes no connection while it is closed: the server is as good as gone."""

    closed = False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.closed:
            writer.transport.abort()
        else:
            await super()._accept(reader, writer)


class WayToApi:
    """`kubeconfig` is a copy of another one that leads through here."""

    def __init__(self, kubeconfig: Path) -> None:
        found = yaml.safe_load(kubeconfig.read_text())
        [entry] = found["clusters"]
        address = urlsplit(entry["cluster"]["server"])
        assert address.port is not None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._link = ClosableLink(address.port)
        self._do(self._link.open())
        entry["cluster"]["server"] = f"https://127.0.0.1:{self._link.port}"
        self.kubeconfig = kubeconfig.with_name(f"way-{self._link.port}.kubeconfig")
        self.kubeconfig.write_text(yaml.safe_dump(found))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._do(self._link.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def close(self) -> None:
        """Break all connections and take none."""
        self._do(self._set(True))

    def open(self) -> None:
        self._do(self._set(False))

    async def _set(self, closed: bool) -> None:
        self._link.closed = closed
        self._link.cut()

    def _do(self, doing: Coroutine[Any, Any, object]) -> None:
        asyncio.run_coroutine_threadsafe(doing, self._loop).result(timeout=30)
