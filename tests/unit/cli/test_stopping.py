"""The first signal asks, the second forces."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from baton.cli.stopping import Stopped, StopSignals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_asks_and_the_second_forces(number: int) -> None:
    signals = StopSignals()
    os.kill(os.getpid(), number)
    await signals.asked.wait()
    assert not signals.forced.is_set()
    os.kill(os.getpid(), number)
    await signals.forced.wait()


async def test_work_is_cancelled_by_the_signal_it_heeds() -> None:
    signals = StopSignals()
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
    with pytest.raises(Stopped):
        await signals.unless_asked(work())
    assert cancelled.is_set()


async def test_finished_work_gives_its_result_or_its_error() -> None:
    signals = StopSignals()

    async def good() -> int:
        return 7

    async def bad() -> int:
        raise ValueError("no")

    assert await signals.unless_asked(good()) == 7
    with pytest.raises(ValueError, match="no"):
        await signals.unless_forced(bad())
