from __future__ import annotations

import asyncio

from baton.core.clock import monotonic
from baton.gateway.deadlines import Deadlines
from fakes.clock import ManualClock


async def test_items_expire_in_order_and_never_early() -> None:
    clock = ManualClock(1000.0)
    expired: list[str] = []
    deadlines: Deadlines[str] = Deadlines(expired.append, clock, granularity_s=0.02)
    deadlines.add("late", 1000.5)
    deadlines.add("early", 1000.1)
    deadlines.add("same", 1000.1)
    clock.now = 1000.099
    deadlines.expire()
    assert expired == []
    clock.now = 1000.13
    deadlines.expire()
    assert expired == ["early", "same"]
    clock.now = 2000.0
    deadlines.expire()
    assert expired == ["early", "same", "late"]
    assert len(deadlines) == 0
    deadlines.close()


async def test_removed_item_does_not_expire_and_leaves_nothing() -> None:
    clock = ManualClock()
    expired: list[int] = []
    deadlines: Deadlines[int] = Deadlines(expired.append, clock)
    handles = {i: deadlines.add(i, 300.0 + i / 100) for i in range(1000)}
    for item, handle in handles.items():
        deadlines.remove(item, handle)
        deadlines.remove(item, handle)
    assert len(deadlines) == 0
    clock.now = 1000.0
    deadlines.expire()
    assert expired == []
    assert not deadlines._heap and not deadlines._intervals
    deadlines.close()


async def test_callback_may_add_again() -> None:
    clock = ManualClock()
    expired: list[int] = []

    def again(item: int) -> None:
        expired.append(item)
        if item < 3:
            deadlines.add(item + 1, clock.now)

    deadlines: Deadlines[int] = Deadlines(again, clock)
    deadlines.add(1, 5.0)
    clock.now = 5.1
    deadlines.expire()
    clock.now = 6.0
    deadlines.expire()
    assert expired == [1, 2, 3]
    deadlines.close()


async def test_timer_fires_by_itself() -> None:
    fired = asyncio.Event()
    deadlines: Deadlines[str] = Deadlines(lambda _item: fired.set(), monotonic)
    deadlines.add("far", monotonic() + 1000)
    deadlines.add("near", monotonic() + 0.01)
    await fired.wait()
    assert len(deadlines) == 1
    deadlines.close()
