"""`baton drain` and `baton undrain`"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from baton.cli.flags import CONTROL, with_settings
from baton.core.errors import UnavailableError
from baton.core.settings import Settings

if TYPE_CHECKING:
    from baton.cli.worker_link import WorkerLink

# Between two lines of progress.
PROGRESS_S = 1.0
# Between two questions for what is left.
ASK_S = 0.2
# Exit status when --within has passed and the worker is not empty.
STILL_BUSY = 3

WorkerId = Annotated[str, typer.Argument(metavar="WORKER", help="Its id in `baton workers`.")]


@with_settings(CONTROL)
def drain(
    settings: Settings,
    worker: WorkerId,
    reason: Annotated[str, typer.Option("--reason", help="Shown in its log.")] = "",
    within: Annotated[
        float,
        typer.Option(
            "--within", metavar="S", min=0, help="The machine goes away then; 0: no hurry."
        ),
    ] = 0.0,
) -> None:
    """Move all work away from a worker and give it no more, until `baton undrain`.

    Waits until nothing is left; Ctrl-C ends the waiting, not the drain. Exit status: 0 when the
    worker is empty or has left, 3 when --within has passed before, 130 after Ctrl-C.
    """
    try:
        outcome = asyncio.run(_drain(settings, worker, reason, within))
    except KeyboardInterrupt:
        print(f"{worker} goes on draining; `baton undrain {worker}` ends that", file=sys.stderr)
        raise
    if outcome is None:
        print(f"{worker} is not empty after {within:g} s and goes on draining", file=sys.stderr)
        raise typer.Exit(STILL_BUSY)
    print(f"{worker} {outcome}")


@with_settings(CONTROL)
def undrain(settings: Settings, worker: WorkerId) -> None:
    """Give a worker that was drained work again."""
    asyncio.run(_undrain(settings, worker))
    print(f"{worker} takes work again")


async def _drain(settings: Settings, worker: str, reason: str, within_s: float) -> str | None:
    """How it ended; None when the time was over."""
    from baton.cli.worker_link import WorkerLink

    link = await WorkerLink.find(settings, worker)
    num_left = await link.drain(reason, within_s)
    print(f"{worker} drains: {num_left} requests there", flush=True)
    try:
        async with asyncio.timeout(within_s or None):
            return await _until_empty(link, reason, within_s)
    except TimeoutError:
        return None


async def _until_empty(link: WorkerLink, reason: str, within_s: float) -> str:
    drains = False
    told_at = asked_at = time.monotonic()
    async with aclosing(link.loads()) as loads:
        async for load in loads:
            if drains and not load.draining:
                raise UnavailableError(f"{link.worker_id} was told to take work again")
            # The first report may be older than the drain.
            drains = drains or load.draining
            num_left = load.num_running + load.num_waiting
            now = time.monotonic()
            if drains and not num_left and now - asked_at >= ASK_S:
                # The engine is idle, but its gateways may have more to hear.
                asked_at = now
                if not await link.drain(reason, within_s):
                    return "is empty"
            if now - told_at >= PROGRESS_S:
                told_at = now
                print(f"{link.worker_id} drains: {num_left} sequences left", flush=True)
    return "has left"


async def _undrain(settings: Settings, worker: str) -> None:
    from baton.cli.worker_link import WorkerLink

    link = await WorkerLink.find(settings, worker)
    async with aclosing(link.loads()) as loads:
        load = await anext(loads, None)
    if load is None:
        raise UnavailableError(f"{worker} has left")
    if not load.draining:
        raise UnavailableError(f"{worker} is not draining")
    await link.undrain()
