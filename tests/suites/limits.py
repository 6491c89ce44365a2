"""What every store's limits must do. Test modules subclass `LimitSuite` and give it a `backend`."""

from __future__ import annotations

import asyncio

import pytest

from baton.store.base import StoreUnavailableError
from baton.store.limits import (
    MAX_STEPS,
    Charge,
    Limit,
    LimitKind,
    LimitResult,
    LimitStep,
    Verb,
)
from suites.store_tools import Backend, watching, when_up

HOUR_MS = 3_600_000


def rate(bound: int, window_ms: int = HOUR_MS, name: str = "rate") -> Limit:
    return Limit(name, LimitKind.RATE, bound, window_ms)


def slots(bound: int, lease_ms: int = HOUR_MS) -> Limit:
    return Limit("slots", LimitKind.SLOTS, bound, lease_ms)


def total(bound: int, window_ms: int = 0) -> Limit:
    return Limit("total", LimitKind.TOTAL, bound, window_ms)


def step(verb: Verb, *charges: tuple[Limit, int], holder: str = "r") -> LimitStep:
    return LimitStep(verb, holder, tuple(Charge(limit, amount) for limit, amount in charges))


def take(*charges: tuple[Limit, int], holder: str = "r") -> LimitStep:
    return step(Verb.TAKE, *charges, holder=holder)


def settle(*charges: tuple[Limit, int], holder: str = "r") -> LimitStep:
    return step(Verb.SETTLE, *charges, holder=holder)


def left(result: LimitResult) -> list[int]:
    return [level.left for level in result.levels]


class LimitSuite:
    async def test_a_rate_gives_its_bound_at_once_and_no_more(self, backend: Backend) -> None:
        store = backend.open()
        results = await store.limit([take((rate(3), 1)) for _ in range(4)])
        assert [r.granted for r in results] == [True, True, True, False]
        assert [left(r) for r in results] == [[2], [1], [0], [0]]
        # Each took a third of the window; little of it has passed.
        assert 0.9 * HOUR_MS < results[3].levels[0].reset_us / 1000 <= HOUR_MS

    async def test_a_rate_comes_back_evenly(self, backend: Backend) -> None:
        store = backend.open()
        # Two units each 400 ms.
        limit = rate(20, 4000)
        assert (await store.limit([take((limit, 20))]))[0].granted
        assert not (await store.limit([take((limit, 20))]))[0].granted
        async with asyncio.timeout(60):
            while not (await store.limit([take((limit, 2))]))[0].granted:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not (await store.limit([take((limit, 20))]))[0].granted

    async def test_what_is_more_than_the_bound_is_never_granted(self, backend: Backend) -> None:
        store = backend.open()
        (result,) = await store.limit([take((rate(5), 6))])
        assert not result.granted
        assert left(result) == [5]
        assert result.levels[0].reset_us == 0

    async def test_taking_is_all_or_nothing(self, backend: Backend) -> None:
        store = backend.open()
        full = total(1)
        assert (await store.limit([take((full, 1))]))[0].granted
        asked = ((rate(5), 1), (slots(2), 1), (full, 1))
        (result,) = await store.limit([take(*asked, holder="a")])
        assert not result.granted
        assert left(result) == [5, 2, 0]

    async def test_settling_gives_back_or_takes_more_even_into_debt(self, backend: Backend) -> None:
        store = backend.open()
        limits = (rate(100), total(100))
        (taken,) = await store.limit([take(*((limit, 60) for limit in limits))])
        assert left(taken) == [40, 40]
        (given,) = await store.limit([settle(*((limit, -50) for limit in limits))])
        assert left(given) == [90, 90]
        (more,) = await store.limit([settle(*((limit, 140) for limit in limits))])
        assert left(more) == [-50, -50]
        assert not (await store.limit([take((limits[0], 1))]))[0].granted
        assert not (await store.limit([take((limits[1], 1))]))[0].granted

    async def test_a_rates_debt_is_bounded(self, backend: Backend) -> None:
        store = backend.open()
        (result,) = await store.limit([settle((rate(10), 10**9))])
        assert result.levels[0].left == -90
        assert result.levels[0].reset_us <= 10 * HOUR_MS * 1000

    async def test_slots_are_held_once_and_freed(self, backend: Backend) -> None:
        store = backend.open()
        limit = slots(2)
        results = await store.limit([take((limit, 1), holder=name) for name in "aabc"])
        assert [r.granted for r in results] == [True, True, True, False]
        await store.limit([settle((limit, 0), holder="a"), settle((limit, 0), holder="x")])
        assert (await store.limit([take((limit, 1), holder="c")]))[0].granted

    async def test_slots_of_one_that_died_come_back(self, backend: Backend) -> None:
        store = backend.open()
        limit = slots(1, 60)
        assert (await store.limit([take((limit, 1), holder="dead")]))[0].granted
        async with asyncio.timeout(60):
            while not (await store.limit([take((limit, 1), holder="next")]))[0].granted:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def test_a_slot_that_is_held_stays_taken(self, backend: Backend) -> None:
        store = backend.open()
        limit = slots(1, 300)
        await store.limit([take((limit, 1), holder="long")])
        for _ in range(10):
            await asyncio.sleep(0.05)
            # In one call, so that no time is between them.
            hold = step(Verb.HOLD, (limit, 1), holder="long")
            _, result = await store.limit([hold, take((limit, 1), holder="next")])
            assert not result.granted

    async def test_holding_takes_nothing_else_and_brings_a_lost_slot_back(
        self, backend: Backend
    ) -> None:
        store = backend.open()
        limits = ((rate(5), 1), (total(5), 1), (slots(1), 1))
        (held,) = await store.limit([step(Verb.HOLD, *limits, holder="long")])
        assert left(held) == [5, 5, 0]

    async def test_looking_takes_nothing(self, backend: Backend) -> None:
        store = backend.open()
        limits = ((rate(5), 1), (total(5), 1), (slots(1), 1))
        for _ in range(2):
            (seen,) = await store.limit([step(Verb.LOOK, *limits)])
            assert left(seen) == [5, 5, 1]

    async def test_a_total_ends_with_its_window(self, backend: Backend) -> None:
        store = backend.open()
        limit = total(1, 80)
        assert (await store.limit([take((limit, 1))]))[0].granted
        async with asyncio.timeout(60):
            while not (await store.limit([take((limit, 1))]))[0].granted:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def test_of_concurrent_takers_only_as_many_win_as_there_is_room(
        self, backend: Backend
    ) -> None:
        clients = [backend.open(), backend.open()]
        asked = ((rate(50), 1), (total(40), 1), (slots(30), 1))
        results = await asyncio.gather(
            *(clients[i % 2].limit([take(*asked, holder=f"r{i}")]) for i in range(60))
        )
        assert sum(result[0].granted for result in results) == 30
        (seen,) = await clients[0].limit([step(Verb.LOOK, *asked)])
        assert left(seen)[1:] == [10, 0]

    async def test_deployments_have_limits_of_their_own(self, backend: Backend) -> None:
        for prefix in ("p", "p2"):
            assert (await backend.open(prefix).limit([take((total(1), 1))]))[0].granted

    async def test_limits_are_no_entries(self, backend: Backend) -> None:
        store = backend.open()
        async with watching(store, "") as watch:
            await watch.until("synced")
            await store.limit([take((rate(5), 1), (slots(1), 1), (total(5), 1))])
            await store.put("end", b"")
            assert (await watch.next()).key == "end"
        assert list(await store.list("")) == ["end"]

    async def test_no_steps_have_no_results(self, backend: Backend) -> None:
        store = backend.open()
        assert list(await store.limit([])) == []
        (result,) = await store.limit([take()])
        assert result == LimitResult(True, ())

    @pytest.mark.parametrize(
        "wrong",
        [
            take((rate(0), 1)),
            take((rate(10**13), 1)),
            take((rate(1, 0), 1)),
            take((slots(1, 0), 1)),
            take((total(1, -1), 1)),
            take((total(1), -1)),
            take((total(1), 10**13)),
        ],
    )
    async def test_limits_out_of_bounds_are_refused(
        self, backend: Backend, wrong: LimitStep
    ) -> None:
        with pytest.raises(ValueError, match="out of bounds"):
            await backend.open().limit([wrong])

    async def test_too_many_steps_are_refused(self, backend: Backend) -> None:
        with pytest.raises(ValueError, match="steps"):
            await backend.open().limit([take()] * (MAX_STEPS + 1))

    async def test_limits_of_a_store_that_is_down_name_its_url(self, backend: Backend) -> None:
        store = backend.open()
        await store.limit([take((total(1), 1))])
        await backend.stop()
        with pytest.raises(StoreUnavailableError) as caught:
            await store.limit([take((total(1), 1))])
        assert backend.url in str(caught.value)
        await backend.start()
        await when_up(store)
        assert (await store.limit([take((total(1), 1))]))[0].granted
