"""The first signal asks, the second forces."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from baton.cli import stopping
from baton.cli.stopping import Stopped, StopSignals


async def test_sigterm_that_comes_twice_at_once_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "REPEAT_S", 60.0)
    signals = StopSignals()
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.01)
    await signals.asked.wait()
    assert not signals.forced.is_set()
    os.kill(os.getpid(), signal.SIGINT)
    await signals.forced.wait()


async def test_sigterm_right_after_ctrl_c_forces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "REPEAT_S", 60.0)
    signals = StopSignals()
    os.kill(os.getpid(), signal.SIGINT)
    await signals.asked.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(60):
        await signals.forced.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_asks_and_the_second_forces(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(stopping, "REPEAT_S", 0.0)
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
