"""Limit steps on their way to the store: together, in order, and when it is down."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from baton.gateway.keys.limit_pipe import PAUSE_S, LimitPipe
from baton.store.base import StoreUnavailableError
from baton.store.limits import Charge, Limit, LimitKind, LimitResult, LimitStep, LimitTable, Verb
from fakes.clock import ManualClock
from fakes.memory_store import MemoryStore

BUDGET = Limit("budget", LimitKind.TOTAL, 1000, 0)
SLOTS = Limit("slots", LimitKind.SLOTS, 1, 60_000)


class SlowStore(MemoryStore):
    """Answers when it is let; keeps what came in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[LimitStep]] = []
        self.go = asyncio.Semaphore(0)
        self.table = LimitTable()

    async def limit(self, steps: Sequence[LimitStep]) -> list[LimitResult]:
        self.calls.append(list(steps))
        await self.go.acquire()
        if self.is_down:
            raise StoreUnavailableError("the store is down")
        return [self.table.apply(1, step) for step in steps]

    def used(self) -> int:
        look = LimitStep(Verb.LOOK, "", (Charge(BUDGET, 0),))
        return BUDGET.bound - self.table.apply(1, look).levels[0].left


def take(amount: int = 1, limit: Limit = BUDGET, holder: str = "r") -> LimitStep:
    return LimitStep(Verb.TAKE, holder, (Charge(limit, amount),))


def settle(amount: int = 0, limit: Limit = BUDGET, holder: str = "r") -> LimitStep:
    return LimitStep(Verb.SETTLE, holder, (Charge(limit, amount),))


def pipe(
    store: MemoryStore, timeout_s: float = 30.0, clock: ManualClock | None = None
) -> LimitPipe:
    return LimitPipe(store, timeout_s, lambda _: None, clock or ManualClock())


async def test_steps_that_come_during_a_call_leave_together_with_the_next() -> None:
    store = SlowStore()
    way = pipe(store)
    asked = [asyncio.create_task(way.ask(take()))]
    while not store.calls:  # noqa: ASYNC110
        await asyncio.sleep(0)
    asked += [asyncio.create_task(way.ask(take())) for _ in range(300)]
    await asyncio.sleep(0)
    for _ in range(3):
        store.go.release()
    assert all(result.granted for result in await asyncio.gather(*asked))
    assert [len(call) for call in store.calls] == [1, 256, 44]


async def test_a_settlement_is_not_overtaken_by_what_comes_after_it() -> None:
    store = SlowStore()
    store.go = asyncio.Semaphore(1000)
    way = pipe(store)
    for i in range(100):
        # A client that asks again the moment it has its answer.
        assert (await way.ask(take(limit=SLOTS, holder=f"r{i}"))).granted
        way.tell(settle(limit=SLOTS, holder=f"r{i}"))


async def test_a_store_that_does_not_answer_fails_all_who_wait_and_is_left_alone_for_a_while() -> (
    None
):
    store, clock = SlowStore(), ManualClock()
    way = pipe(store, 0.05, clock)
    results = await asyncio.gather(*(way.ask(take()) for _ in range(10)), return_exceptions=True)
    assert all(isinstance(result, StoreUnavailableError) for result in results)
    num_calls = len(store.calls)
    with pytest.raises(StoreUnavailableError):
        await way.ask(take())
    assert len(store.calls) == num_calls
    clock.advance(PAUSE_S)
    # It answers at once now, so the call's timeout, which is real, has no say.
    store.go = asyncio.Semaphore(1000)
    assert (await way.ask(take())).granted


async def test_totals_of_an_outage_are_made_up_for_and_nothing_is_settled_twice() -> None:
    store, clock = SlowStore(), ManualClock()
    store.go = asyncio.Semaphore(1000)
    way = pipe(store, clock=clock)
    await way.ask(take(100))
    store.is_down = True
    with pytest.raises(StoreUnavailableError):
        await way.ask(take(7))
    for _ in range(5):
        way.tell(settle(-10))
        way.tell(settle(limit=SLOTS))
    store.is_down = False
    clock.advance(PAUSE_S)
    await way.ask(take(0))
    await way.flush()
    assert store.used() == 50


async def test_what_a_caller_that_went_away_took_is_given_back() -> None:
    store = SlowStore()
    way = pipe(store)
    asking = asyncio.create_task(way.ask(take(40)))
    while not store.calls:  # noqa: ASYNC110
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    store.go.release()
    store.go.release()
    await way.flush()
    await asyncio.sleep(0)
    await way.flush()
    assert store.used() == 0


async def test_a_bug_fails_its_steps_and_the_next_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = ManualClock()
    way = pipe(MemoryStore(), clock=clock)
    broken = Limit("broken", LimitKind.RATE, 0, 60_000)
    with pytest.raises(StoreUnavailableError):
        await way.ask(take(limit=broken))
    clock.advance(PAUSE_S)
    assert (await way.ask(take())).granted
