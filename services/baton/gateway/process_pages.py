"""What gateway processes that share a port tell each other: whichever is asked answers for all.

Each leaves its page on a Unix socket in a folder of theirs; who is asked reads the others'. One
that does not answer in time is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

READ_TIMEOUT_S = 1.0


class ProcessPages:
    """One process's end of the pages of one `kind`, which `render` gives."""

    def __init__(self, folder: Path, index: int, kind: str, render: Callable[[], bytes]) -> None:
        self._folder = folder
        self._suffix = f".{kind}"
        self.name = str(index)
        self.render = render
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Answer the others."""
        path = self._folder / f"{self.name}{self._suffix}"
        # Left by a process that was killed and that this one stands in for.
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._answer, path)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            (self._folder / f"{self.name}{self._suffix}").unlink(missing_ok=True)

    async def others(self) -> dict[str, bytes]:
        """The pages of the others that answer, by the process' name."""
        paths = [p for p in self._folder.glob(f"*{self._suffix}") if p.stem != self.name]
        pages = await asyncio.gather(*(_read(path) for path in paths))
        return {path.stem: page for path, page in zip(paths, pages, strict=True) if page}

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(self.render())
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
