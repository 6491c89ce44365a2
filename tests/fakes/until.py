"""Waiting for something to become true."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# Nothing takes this long; less than a test may, so that what waits in vain is named.
PATIENCE_S = 100.0


async def until(condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Return once it holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - it may be about anything
            await asyncio.sleep(0.002)
