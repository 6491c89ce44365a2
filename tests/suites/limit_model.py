"""Random steps over a few limits, and a plain account of what they may do."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import strategies as st

from baton.store.limits import (
    MAX_DEBT_WINDOWS,
    Charge,
    Limit,
    LimitKind,
    LimitResult,
    LimitStep,
    Verb,
)

LIMITS = (
    Limit("rpm", LimitKind.RATE, 7, 60_000),
    Limit("tpm", LimitKind.RATE, 10_000, 60_000),
    Limit("tenant-tpm", LimitKind.RATE, 3_000_000, 60_000),
    Limit("slots", LimitKind.SLOTS, 3, 30_000),
    Limit("budget", LimitKind.TOTAL, 50_000, 0),
)
HOLDERS = ("a", "b", "c", "d", "e")


def steps() -> st.SearchStrategy[LimitStep]:
    @st.composite
    def draw_step(draw: st.DrawFn) -> LimitStep:
        verb = draw(st.sampled_from(Verb))
        least = -12_000 if verb is Verb.SETTLE else 0
        amounts = st.integers(least, 12_000) | st.integers(-2 if least else 0, 2)
        limits = draw(st.lists(st.sampled_from(LIMITS), unique=True, max_size=4))
        charges = tuple(Charge(limit, draw(amounts)) for limit in limits)
        return LimitStep(verb, draw(st.sampled_from(HOLDERS)), charges)

    return draw_step()


def moments() -> st.SearchStrategy[list[tuple[int, LimitStep]]]:
    """Steps, each with the microseconds since the one before."""
    waits = st.sampled_from([0, 1, 1_000, 250_000, 10_000_000]) | st.integers(0, 90_000_000)
    return st.lists(st.tuples(waits, steps()), max_size=40)


class Account:
    """What there is by exact arithmetic: a bucket that refills, leases, a sum.

    `check` compares a result with it; a store rounds to microseconds at each step, which is allowed
    for, and where that decides about a grant the store's word is taken.
    """

    def __init__(self) -> None:
        self._now = 0
        self._buckets = {limit: Fraction(limit.bound) for limit in LIMITS}
        self._holders: dict[str, int] = {}
        self._used = 0
        self._num_steps = 0

    def check(self, now_us: int, step: LimitStep, result: LimitResult) -> None:
        self._advance(now_us)
        self._num_steps += 1
        if step.verb is Verb.TAKE:
            room = [self._room(step.holder, charge) for charge in step.charges]
            slack = [self._slack(charge.limit) for charge in step.charges]
            if all(r >= s for r, s in zip(room, slack, strict=True)):
                assert result.granted
            elif any(r < -s for r, s in zip(room, slack, strict=True)):
                assert not result.granted
        else:
            assert result.granted
        if result.granted and step.verb is not Verb.LOOK:
            for charge in step.charges:
                self._apply(step, charge)
        for charge, level in zip(step.charges, result.levels, strict=True):
            limit = charge.limit
            slack_units = self._slack(limit) + (limit.kind is LimitKind.RATE)
            assert abs(level.left - self._left(limit)) <= slack_units, (limit, level)

    def _advance(self, now_us: int) -> None:
        passed = now_us - self._now
        self._now = now_us
        for limit in self._buckets:
            if limit.kind is LimitKind.RATE:
                back = Fraction(passed * limit.bound, limit.window_ms * 1000)
                self._buckets[limit] = min(Fraction(limit.bound), self._buckets[limit] + back)
        self._holders = {name: end for name, end in self._holders.items() if end > now_us}

    def _slack(self, limit: Limit) -> Fraction:
        """A microsecond's units for each step so far."""
        if limit.kind is not LimitKind.RATE:
            return Fraction(0)
        return Fraction(self._num_steps * limit.bound, limit.window_ms * 1000)

    def _left(self, limit: Limit) -> Fraction:
        if limit.kind is LimitKind.SLOTS:
            return Fraction(limit.bound - len(self._holders))
        if limit.kind is LimitKind.TOTAL:
            return Fraction(limit.bound - self._used)
        return self._buckets[limit]

    def _room(self, holder: str, charge: Charge) -> Fraction:
        if charge.limit.kind is LimitKind.SLOTS:
            return Fraction(0 if holder in self._holders else self._left(charge.limit) - 1)
        return self._left(charge.limit) - charge.amount

    def _apply(self, step: LimitStep, charge: Charge) -> None:
        limit = charge.limit
        if limit.kind is LimitKind.SLOTS:
            self._holders.pop(step.holder, None)
            if step.verb is not Verb.SETTLE:
                self._holders[step.holder] = self._now + limit.window_ms * 1000
        elif step.verb is Verb.HOLD:
            return
        elif limit.kind is LimitKind.TOTAL:
            self._used = max(0, self._used + charge.amount)
        else:
            level = self._buckets[limit] - charge.amount
            least = Fraction(limit.bound * (1 - MAX_DEBT_WINDOWS))
            self._buckets[limit] = min(Fraction(limit.bound), max(least, level))
