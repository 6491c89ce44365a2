"""Waiting for several things at once, leaving none behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def done_unless(stop: asyncio.Event, doing: Coroutine[Any, Any, None]) -> bool:
    """Do it to its end; False when told to stop before."""
    task, stopped = asyncio.create_task(doing), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
            return True
        return False
    finally:
        await cancelled(task, stopped)


async def first_of(*doing: Coroutine[Any, Any, None]) -> None:
    """Until one of them ends; the others are cancelled. Raises what that one raised."""
    tasks = [asyncio.create_task(each) for each in doing]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task
    finally:
        await cancelled(*tasks)


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel them and wait for their ends, whatever those are."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
