"""The metrics of gateway processes that share a port: whichever is asked answers for all.

Each leaves its own on a Unix socket in a folder of theirs; who is asked reads the others' and tells
the processes apart by a label. One that does not answer in time is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

LABEL = "process"
READ_TIMEOUT_S = 1.0
_SUFFIX = ".metrics"


class ProcessMetrics:
    """One process's end. `render` gives its own metrics in Prometheus' text format."""

    def __init__(self, folder: Path, index: int, render: Callable[[], bytes]) -> None:
        self._folder = folder
        self._name = str(index)
        self._render = render
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Answer the others."""
        path = self._folder / f"{self._name}{_SUFFIX}"
        # Left by a process that was killed and that this one stands in for.
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._answer, path)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            (self._folder / f"{self._name}{_SUFFIX}").unlink(missing_ok=True)

    async def render(self) -> bytes:
        """The metrics of all processes."""
        others = [p for p in self._folder.glob(f"*{_SUFFIX}") if p.stem != self._name]
        texts = await asyncio.gather(*(_read(path) for path in others))
        pages = {self._name: self._render()}
        pages.update((p.stem, text) for p, text in zip(others, texts, strict=True) if text)
        return merged(pages)

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(self._render())
            await writer.drain()
        writer.close()


async def _read(path: Path) -> bytes:
    """What a process says; nothing when it is gone or slow."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(READ_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return await reader.read()
            finally:
                writer.close()
    return b""


def merged(pages: dict[str, bytes]) -> bytes:
    """One page with the samples of all, each labelled with the process that it comes from."""
    families: dict[str, Metric] = {}
    for process, page in sorted(pages.items()):
        for family in text_string_to_metric_families(page.decode()):
            found = families.get(family.name)
            if found is None:
                found = families[family.name] = Metric(
                    family.name, family.documentation, family.type
                )
            for sample in family.samples:
                found.samples.append(sample._replace(labels={**sample.labels, LABEL: process}))
    registry = CollectorRegistry()
    registry.register(_Page(families.values()))
    return generate_latest(registry)


class _Page:
    """A collector of what is there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)
