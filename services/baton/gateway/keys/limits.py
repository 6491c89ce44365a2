"""Limits of API keys and tenants: room is reserved before a request, and settled after it.

A request reserves one request, one slot, and the tokens of its prompt and of the output that it is
likely to have; when it is over, what it used takes their place. If it used more, a rate goes into
debt and the next requests wait. All of a key's and its tenant's limits are taken at once or not at
all, for all gateways together, by the store.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from baton.core.clock import Clock, monotonic
from baton.core.errors import BatonError, QuotaError, RateLimitError, UnavailableError
from baton.core.request import Request
from baton.core.settings import GatewaySettings
from baton.gateway.http.asgi import Headers, draw_id
from baton.gateway.keys.caller import Bound, Caller, Counted
from baton.gateway.keys.key_ring import SLOT_LEASE_MS
from baton.gateway.keys.limit_pipe import LimitPipe
from baton.gateway.keys.rate_headers import rate_headers
from baton.store.base import Store, StoreUnavailableError
from baton.store.limits import (
    Charge,
    Level,
    Limit,
    LimitKind,
    LimitResult,
    LimitStep,
    LimitTable,
    Verb,
    cost_us,
)
from baton.telemetry.metrics import Metrics

# Between two renewals of the slots that are held.
RENEW_S = SLOT_LEASE_MS / 3000
# A key without requests left is refused here for so long at most, before the store is asked again.
MAX_REFUSAL_S = 1.0
# Until a slot may be free.
_SLOT_RETRY_S = 1.0


class Reservation:
    """Room that a request has. `settle` it once, whatever becomes of the request."""

    __slots__ = ("_limits", "bounds", "charges", "holder", "is_local", "num_tokens")

    def __init__(
        self,
        limits: Limits,
        holder: str,
        bounds: Sequence[Bound],
        charges: tuple[Charge, ...],
        num_tokens: int,
        is_local: bool,
    ) -> None:
        self._limits = limits
        self.holder = holder
        self.bounds = bounds
        self.charges = charges
        self.num_tokens = num_tokens
        # The store did not answer: only this gateway knows of it.
        self.is_local = is_local

    def settle(self, num_tokens: int) -> None:
        """The request is over, with so many tokens of prompt and output to be counted."""
        self._limits.settle(self, num_tokens)


class Limits:
    """`start` it on the loop that uses it, `close` it there."""

    def __init__(
        self,
        store: Store,
        settings: GatewaySettings,
        metrics: Metrics,
        wall_clock: Callable[[], float] = time.time,
        clock: Clock = monotonic,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._clock = clock
        self._pipe = LimitPipe(
            store, settings.limits_timeout_s, metrics.limit_time.labels().observe, clock
        )
        # Counts while the store does not.
        self._local = LimitTable()
        self._held: dict[str, Reservation] = {}
        # Limits of requests without room, and until when that is certain.
        self._refused: dict[str, tuple[float, Bound]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._renew())

    async def close(self) -> None:
        """Settle what is settled, and stop."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._pipe.flush()

    def precheck(self, caller: Caller) -> None:
        """Before a body is read: raises RateLimitError for keys that are certain to be refused."""
        if not caller.bounds or not self._refused:
            return
        now = self._clock()
        for bound in caller.bounds:
            refused = self._refused.get(bound.limit.name)
            if refused is None:
                continue
            if refused[0] <= now:
                del self._refused[bound.limit.name]
            else:
                raise self._refusal(bound, Level(0), 1, refused[0] - now)

    async def reserve(
        self, caller: Caller, headers: Headers, num_prompt_tokens: int, num_output_tokens: int = 0
    ) -> Reservation | None:
        """Room for a request; None when its caller has no limits.

        Puts what is left into the response's `headers`, also when it raises RateLimitError or
        QuotaError. Raises UnavailableError when the store is down and limits are closed then.
        """
        if not caller.bounds:
            return None
        num_tokens = num_prompt_tokens + num_output_tokens
        charges = tuple(
            Charge(self._limit(bound), num_tokens if _is_tokens(bound) else 1)
            for bound in caller.bounds
        )
        holder = draw_id()
        step = LimitStep(Verb.TAKE, holder, charges)
        is_local = False
        try:
            result = await self._pipe.ask(step)
        except StoreUnavailableError as error:
            self._metrics.unchecked_limits.inc()
            if self._settings.limits_when_store_down == "closed":
                raise UnavailableError(
                    "the limits of this API key cannot be checked now; try again"
                ) from error
            is_local = True
            result = self._local.apply(self._now_us(), step)
        headers += rate_headers(caller.bounds, result.levels)
        if not result.granted:
            raise self._refused_by(caller.bounds, charges, result)
        reservation = Reservation(self, holder, caller.bounds, charges, num_tokens, is_local)
        if any(bound.counted is Counted.CONCURRENT for bound in caller.bounds):
            self._held[holder] = reservation
        return reservation

    async def reserve_for(
        self, caller: Caller, headers: Headers, requests: Sequence[Request]
    ) -> Reservation | None:
        """Room for the prompts of one call and all their choices."""
        if not caller.bounds:
            return None
        most = self._settings.limits_output_estimate
        return await self.reserve(
            caller,
            headers,
            sum(len(request.prompt) for request in requests),
            sum(r.num_choices * min(most, r.sampling.max_tokens) for r in requests),
        )

    def settle(self, reservation: Reservation, num_tokens: int) -> None:
        self._held.pop(reservation.holder, None)
        change = num_tokens - reservation.num_tokens
        charges = tuple(
            Charge(charge.limit, change if _is_tokens(bound) else 0)
            for bound, charge in zip(reservation.bounds, reservation.charges, strict=True)
        )
        step = LimitStep(Verb.SETTLE, reservation.holder, charges)
        if not reservation.is_local:
            self._pipe.tell(step)
            return
        self._local.apply(self._now_us(), step)
        # The store has not heard of its tokens at all, and of its slots since it is back.
        missing = tuple(
            Charge(charge.limit, num_tokens if charge.limit.kind is LimitKind.TOTAL else 0)
            for charge in charges
            if charge.limit.kind is not LimitKind.RATE
        )
        if missing:
            self._pipe.tell(LimitStep(Verb.SETTLE, reservation.holder, missing))

    def _limit(self, bound: Bound) -> Limit:
        """With its period in the name, where it has one."""
        limit = bound.limit
        if bound.period in ("", "total"):
            return limit
        day = datetime.fromtimestamp(self._wall_clock(), UTC)
        period = day.strftime("%Y-%m" if bound.period == "month" else "%Y-%m-%d")
        return Limit(f"{limit.name}/{period}", limit.kind, limit.bound, limit.window_ms)

    def _refused_by(
        self, bounds: Sequence[Bound], charges: Sequence[Charge], result: LimitResult
    ) -> BatonError:
        """The error of the limit that stands longest in the way."""
        worst: tuple[float, Bound, Level, int] | None = None
        for bound, charge, level in zip(bounds, charges, result.levels, strict=True):
            wait_s = _wait_s(charge, level)
            if wait_s > 0 and (worst is None or wait_s > worst[0]):
                worst = (wait_s, bound, level, charge.amount)
        if worst is None:
            # What had no room came back in the same microsecond.
            worst = (0.001, bounds[0], result.levels[0], charges[0].amount)
        wait_s, bound, level, amount = worst
        if bound.counted is Counted.REQUESTS and wait_s < math.inf:
            until = self._clock() + min(wait_s, MAX_REFUSAL_S)
            self._refused[bound.limit.name] = (until, bound)
        return self._refusal(bound, level, amount, wait_s)

    def _refusal(self, bound: Bound, level: Level, amount: int, wait_s: float) -> BatonError:
        self._metrics.limit_refusals.labels(bound.counted.value).inc()
        limit, whose = bound.limit, bound.whose
        if bound.counted is Counted.BUDGET:
            when = "" if bound.period == "total" else f" this {bound.period}"
            return QuotaError(
                f"You exceeded your current quota{when}: the budget of {whose} is {limit.bound} "
                f"tokens, of which {max(0, level.left)} are left.",
                # A request above the whole budget never fits.
                retry_after_s=self._rest_s(bound.period) if amount <= limit.bound else None,
            )
        kind = bound.counted.value
        if wait_s == math.inf:
            return RateLimitError(
                f"Request too large for {whose} on {kind} per min: Limit {limit.bound}, Requested "
                f"{amount}. Shorten the prompt or lower max_tokens.",
                kind=kind,
            )
        if bound.counted is Counted.CONCURRENT:
            said = f"Limit {limit.bound} at once"
        else:
            left = max(0, level.left)
            said = f"Limit {limit.bound} per min, Remaining {left}, Requested {amount}"
        return RateLimitError(
            f"Rate limit reached for {whose} on {kind}: {said}. Please try again in "
            f"{_seconds(wait_s)}s.",
            kind=kind,
            retry_after_s=wait_s,
        )

    def _rest_s(self, period: str) -> float | None:
        """Until a budget's next period; None for one that has none."""
        now = datetime.fromtimestamp(self._wall_clock(), UTC)
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        if period == "day":
            return (today + timedelta(days=1) - now).total_seconds()
        if period == "month":
            # The 28th and four days are in the next month, whichever it is.
            following = (today.replace(day=28) + timedelta(days=4)).replace(day=1)
            return (following - now).total_seconds()
        return None

    def _now_us(self) -> int:
        return int(self._clock() * 1e6)

    async def _renew(self) -> None:
        """Hold the slots of requests that take longer than a lease."""
        while True:
            await asyncio.sleep(RENEW_S)
            for reservation in list(self._held.values()):
                charges = tuple(
                    charge for charge in reservation.charges if charge.limit.kind is LimitKind.SLOTS
                )
                step = LimitStep(Verb.HOLD, reservation.holder, charges)
                if reservation.is_local:
                    self._local.apply(self._now_us(), step)
                self._pipe.tell(step)


def _is_tokens(bound: Bound) -> bool:
    return bound.counted in (Counted.TOKENS, Counted.BUDGET)


def _wait_s(charge: Charge, level: Level) -> float:
    """Until there may be room: 0 when there is, infinity when there will never be."""
    limit = charge.limit
    if limit.kind is LimitKind.SLOTS:
        return _SLOT_RETRY_S if level.left <= 0 else 0.0
    if limit.kind is LimitKind.TOTAL:
        return math.inf if level.left < charge.amount else 0.0
    if charge.amount > limit.bound:
        return math.inf
    missing_us = level.reset_us + cost_us(limit, charge.amount) - limit.window_ms * 1000
    return max(0, missing_us) / 1e6


def _seconds(wait_s: float) -> str:
    return f"{math.ceil(wait_s * 1000) / 1000:g}"
