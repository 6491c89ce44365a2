"""Waiting for something to become true."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object]) -> None:
    """Return once it holds; the test's own timeout bounds it."""
    while not condition():  # noqa: ASYNC110 - it may be about anything
        await asyncio.sleep(0.002)
