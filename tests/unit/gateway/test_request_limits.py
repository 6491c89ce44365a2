"""Limits of keys and tenants: what requests reserve, what they get back, what is refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from baton.core.clock import Clock, monotonic
from baton.core.errors import BatonError, QuotaError, RateLimitError, UnavailableError
from baton.core.settings import GatewaySettings
from baton.gateway.http.asgi import Headers
from baton.gateway.keys import limits as limits_module
from baton.gateway.keys.caller import Bound, Caller
from baton.gateway.keys.key_ring import SLOT_LEASE_MS, key_bounds, tenant_bounds
from baton.gateway.keys.limit_pipe import PAUSE_S
from baton.gateway.keys.limits import Limits
from baton.gateway.keys.rate_headers import duration
from baton.gateway.keys.stored import KeyLimits, KeyRecord, TenantRecord
from baton.store.base import Store
from baton.store.limits import LimitResult, LimitStep
from baton.telemetry.metrics import Metrics
from fakes.clock import ManualClock
from fakes.until import until
from suites.embedded_backend import EmbeddedBackend
from suites.store_tools import when_up

DAY_S = 86400.0


@pytest.fixture
async def backend() -> AsyncIterator[EmbeddedBackend]:
    backend = EmbeddedBackend()
    await backend.start()
    yield backend
    await backend.close()


class WallClock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def limiter(
    store: Store,
    wall_clock: WallClock | None = None,
    clock: Clock = monotonic,
    **settings: object,
) -> AsyncIterator[Limits]:
    gateway = GatewaySettings.model_validate({"limits_timeout_s": 5.0, **settings})
    limits = Limits(store, gateway, Metrics(), wall_clock or WallClock(), clock)
    limits.start()
    try:
        yield limits
    finally:
        await limits.close()


def key(name: str = "k", **limits: object) -> tuple[Bound, ...]:
    record = KeyRecord(id=name, digest="0" * 64, limits=KeyLimits.model_validate(limits))
    return key_bounds(record)


def tenant(**limits: object) -> tuple[Bound, ...]:
    record = TenantRecord(name="acme", salt="0" * 32, limits=KeyLimits.model_validate(limits))
    return tenant_bounds(record)


def caller(*bounds: Bound) -> Caller:
    return Caller(key_id="k", tenant="acme", bounds=bounds)


async def refused(limits: Limits, who: Caller, *tokens: int) -> BatonError:
    with pytest.raises(BatonError) as caught:
        await limits.reserve(who, [], *(tokens or (1,)))
    return caught.value


async def test_a_caller_without_limits_asks_nobody(backend: EmbeddedBackend) -> None:
    store = backend.open()
    await backend.stop()
    async with limiter(store) as limits:
        assert await limits.reserve(caller(), [], 10**9) is None


async def test_requests_a_minute(backend: EmbeddedBackend) -> None:
    # Here no time passes, so what was refused stays refused without the store.
    async with limiter(backend.open(), clock=ManualClock()) as limits:
        who = caller(*key(rpm=2))
        headers: Headers = []
        for _ in range(2):
            await limits.reserve(who, headers, 5)
        error = await refused(limits, who)
        assert isinstance(error, RateLimitError)
        assert error.kind == "requests"
        assert error.retry_after_s is not None and 25 < error.retry_after_s <= 30
        assert "API key k on requests: Limit 2 per min" in error.message
        assert headers[:2] == [
            (b"x-ratelimit-limit-requests", b"2"),
            (b"x-ratelimit-remaining-requests", b"1"),
        ]
        # The next is refused before its body is read, without the store.
        await backend.stop()
        with pytest.raises(RateLimitError):
            limits.precheck(who)
        limits.precheck(caller(*key("other", rpm=2)))


async def test_tokens_are_settled_by_what_was_used(backend: EmbeddedBackend) -> None:
    async with limiter(backend.open()) as limits:
        who = caller(*key(tpm=1000))
        reservation = await limits.reserve(who, [], 100, 800)
        assert reservation is not None
        error = await refused(limits, who, 101)
        assert isinstance(error, RateLimitError) and error.kind == "tokens"
        reservation.settle(120)
        assert await limits.reserve(who, [], 700) is not None


async def test_more_than_was_reserved_becomes_a_debt(backend: EmbeddedBackend) -> None:
    async with limiter(backend.open()) as limits:
        who = caller(*key(tpm=1000))
        reservation = await limits.reserve(who, [], 10)
        assert reservation is not None
        reservation.settle(3000)
        error = await refused(limits, who, 1)
        assert isinstance(error, RateLimitError)
        assert error.retry_after_s is not None and 110 < error.retry_after_s <= 121


async def test_a_request_larger_than_the_limit_is_told_so(backend: EmbeddedBackend) -> None:
    async with limiter(backend.open()) as limits:
        error = await refused(limits, caller(*key(tpm=100)), 80, 30)
        assert isinstance(error, RateLimitError)
        assert error.retry_after_s is None
        assert "Request too large" in error.message and "Requested 110" in error.message


async def test_a_sequential_client_needs_one_slot(backend: EmbeddedBackend) -> None:
    async with limiter(backend.open()) as limits:
        who = caller(*key(concurrent=1))
        for _ in range(50):
            reservation = await limits.reserve(who, [], 1)
            assert reservation is not None
            error = await refused(limits, who)
            assert isinstance(error, RateLimitError) and error.kind == "concurrent_requests"
            reservation.settle(1)


async def test_slots_are_held_longer_than_a_lease_and_no_longer_than_the_gateway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits_module, "RENEW_S", 0.01)
    clock = ManualClock()
    backend = EmbeddedBackend(clock=clock)
    await backend.start()
    store, other_store = backend.open(), backend.open()
    num_calls, call = 0, store.limit

    async def counted(steps: Sequence[LimitStep]) -> Sequence[LimitResult]:
        nonlocal num_calls
        results = await call(steps)
        num_calls += 1
        return results

    async def renewed() -> None:
        # Twice: one that began before the clock moved may end first.
        seen = num_calls
        await until(lambda: num_calls >= seen + 2)

    monkeypatch.setattr(store, "limit", counted)
    who = caller(*key(concurrent=1))
    async with limiter(other_store) as other:
        async with limiter(store) as limits:
            assert await limits.reserve(who, [], 1) is not None
            for _ in range(3):
                clock.advance(0.6 * SLOT_LEASE_MS / 1000)
                await renewed()
            assert isinstance(await refused(other, who), RateLimitError)
        # That gateway ended without settling, as one that is killed.
        assert isinstance(await refused(other, who), RateLimitError)
        clock.advance(1.1 * SLOT_LEASE_MS / 1000)
        assert await other.reserve(who, [], 1) is not None
    await backend.close()


async def test_a_budget_is_counted_by_its_period_and_ends_with_insufficient_quota(
    backend: EmbeddedBackend,
) -> None:
    clock = WallClock()
    async with limiter(backend.open(), clock) as limits:
        who = caller(*key(budget=100, budget_period="day"))
        reservation = await limits.reserve(who, [], 90)
        assert reservation is not None
        reservation.settle(100)
        error = await refused(limits, who, 1)
        assert isinstance(error, QuotaError)
        assert "this day" in error.message and "100 tokens, of which 0 are left" in error.message
        midnight = DAY_S - clock.now % DAY_S
        assert error.retry_after_s == pytest.approx(midnight)
        # The whole budget would not do.
        too_large = await refused(limits, who, 101)
        assert isinstance(too_large, QuotaError) and too_large.retry_after_s is None
        clock.now += DAY_S
        assert await limits.reserve(who, [], 100) is not None


@pytest.mark.parametrize(
    ("now", "period", "expected"),
    [
        ("2026-02-28T23:59:00", "month", 60.0),
        ("2026-12-31T12:00:00", "month", DAY_S / 2),
        ("2026-01-31T00:00:00", "month", DAY_S),
        ("2028-02-28T00:00:00", "month", 2 * DAY_S),
        ("2026-12-31T23:59:59", "day", 1.0),
        ("2026-12-31T23:59:59", "total", None),
    ],
)
async def test_a_used_up_budget_says_when_its_next_period_begins(
    backend: EmbeddedBackend, now: str, period: str, expected: float | None
) -> None:
    clock = WallClock()
    clock.now = datetime.fromisoformat(now).replace(tzinfo=UTC).timestamp()
    async with limiter(backend.open(), clock) as limits:
        who = caller(*key(budget=1, budget_period=period))
        reservation = await limits.reserve(who, [], 1)
        assert reservation is not None
        reservation.settle(1)
        error = await refused(limits, who, 1)
        assert isinstance(error, QuotaError)
        assert error.retry_after_s == (None if expected is None else pytest.approx(expected))


async def test_limits_of_the_tenant_are_shared_by_its_keys_and_nothing_is_taken_in_vain(
    backend: EmbeddedBackend,
) -> None:
    async with limiter(backend.open()) as limits:
        one = caller(*key("one", rpm=100), *tenant(rpm=3))
        two = caller(*key("two", rpm=100), *tenant(rpm=3))
        for who in (one, two, one):
            await limits.reserve(who, [], 1)
        error = await refused(limits, two)
        assert isinstance(error, RateLimitError) and "tenant acme" in error.message
        alone: Headers = []
        await limits.reserve(caller(*key("two", rpm=100)), alone, 1)
        # One before the refusal, one now.
        assert alone[1] == (b"x-ratelimit-remaining-requests", b"98")


async def test_the_headers_show_whichever_limit_is_nearer(backend: EmbeddedBackend) -> None:
    async with limiter(backend.open()) as limits:
        headers: Headers = []
        await limits.reserve(caller(*key(rpm=5, tpm=50), *tenant(rpm=3, tpm=5000)), headers, 10)
        assert [(n, v) for n, v in headers if b"reset" not in n] == [
            (b"x-ratelimit-limit-requests", b"3"),
            (b"x-ratelimit-remaining-requests", b"2"),
            (b"x-ratelimit-limit-tokens", b"50"),
            (b"x-ratelimit-remaining-tokens", b"40"),
        ]


@pytest.mark.parametrize(
    ("us", "shown"),
    [(0, "0ms"), (1, "1ms"), (17_000, "17ms"), (1_200_000, "1.2s"), (360_000_000, "6m0s")],
)
def test_durations_are_written_as_openai_does(us: int, shown: str) -> None:
    assert duration(us) == shown


async def test_two_gateways_share_the_limits(backend: EmbeddedBackend) -> None:
    who = caller(*key(rpm=40))
    async with limiter(backend.open()) as one, limiter(backend.open()) as two:
        results = await asyncio.gather(
            *((one, two)[i % 2].reserve(who, [], 1) for i in range(100)), return_exceptions=True
        )
    assert sum(not isinstance(result, BaseException) for result in results) == 40


async def test_without_the_store_each_gateway_goes_on_counting_by_itself(
    backend: EmbeddedBackend,
) -> None:
    store, clock = backend.open(), ManualClock()
    who = caller(*key(rpm=3, budget=1000))
    async with limiter(store, clock=clock) as limits:
        await backend.stop()
        for _ in range(3):
            reservation = await limits.reserve(who, [], 10)
            assert reservation is not None
            reservation.settle(100)
        assert isinstance(await refused(limits, who), RateLimitError)
        await backend.start()
        await when_up(store)
        clock.advance(PAUSE_S)
        # The budget knows what was used meanwhile.
        left = caller(*key(budget=1000))
        assert await limits.reserve(left, [], 1) is not None
        await asyncio.sleep(0)
        assert isinstance(await refused(limits, left, 700), QuotaError)
        assert await limits.reserve(left, [], 699) is not None


async def test_closed_limits_refuse_without_the_store(
    backend: EmbeddedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "baton")
    store, clock = backend.open(), ManualClock()
    async with limiter(store, clock=clock, limits_when_store_down="closed") as limits:
        await backend.stop()
        error = await refused(limits, caller(*key(rpm=3)))
        assert isinstance(error, UnavailableError)
        assert await limits.reserve(caller(), [], 1) is None
        await backend.start()
        await when_up(store)
        clock.advance(PAUSE_S)
        assert await limits.reserve(caller(*key(rpm=3)), [], 1) is not None
