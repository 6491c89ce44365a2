"""Limits as every store keeps them: rates, slots and totals (pure; the embedded store's state).

A rate is a token bucket kept as one instant, by which all of it will be there again ("GCRA"):
`bound` units may be taken at once, and come back evenly, `bound` in each window. Slots are leases,
so that those of a process that died come back by themselves. A total only counts up. Taking is all
or nothing over all limits of a step. `store.redis_limits` does the same in Lua, number by number;
times are integers of microseconds, and products are floats as they are there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeVar

T = TypeVar("T")

# How far a rate may go into debt: it bounds what one answer, or a clock that is set back, can cost.
MAX_DEBT_WINDOWS = 10
MAX_BOUND = 10**12
# Steps in one call: a store does nothing else meanwhile.
MAX_STEPS = 256
# Every so many steps, what is over is forgotten.
_SWEEP_STEPS = 4096


class LimitKind(IntEnum):
    """The values are those of the wire's Charge.Kind."""

    RATE = 1
    SLOTS = 2
    TOTAL = 3


class Verb(IntEnum):
    """What a step does; the values are those of the wire's LimitStep.Verb.

    TAKE charges everything, or nothing when one limit has no room. SETTLE adds amounts, negative
    ones too, whatever the bounds say, and frees the slots. HOLD renews slots. LOOK only looks.
    """

    TAKE = 1
    SETTLE = 2
    HOLD = 3
    LOOK = 4


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound on what is counted under `name`.

    RATE: units per window. SLOTS: holders at once; the window is how long a slot is held without
    being renewed. TOTAL: units in a window that begins with the first of them, 0 for ever.
    """

    name: str
    kind: LimitKind
    bound: int
    window_ms: int


@dataclass(frozen=True, slots=True)
class Charge:
    """Units of a limit; slots are taken one at a time whatever the amount."""

    limit: Limit
    amount: int


@dataclass(frozen=True, slots=True)
class LimitStep:
    """What is done at once; `holder` names who has the slots."""

    verb: Verb
    holder: str
    charges: tuple[Charge, ...]


@dataclass(frozen=True, slots=True)
class Level:
    """What a limit has left after a step; below 0 in debt. `reset_us`: until a rate has it all."""

    left: int
    reset_us: int = 0


@dataclass(frozen=True, slots=True)
class LimitResult:
    """`levels` are in the order of the charges. A step that was not granted changed nothing."""

    granted: bool
    levels: tuple[Level, ...]


def check_steps(steps: Sequence[LimitStep]) -> None:
    """Raise ValueError for steps that some store could not carry out."""
    if len(steps) > MAX_STEPS:
        raise ValueError(f"at most {MAX_STEPS} steps in a call, got {len(steps)}")
    for step in steps:
        if step.verb not in tuple(Verb):
            raise ValueError(f"unknown verb {step.verb}")
        for charge in step.charges:
            limit = charge.limit
            least_ms = 0 if limit.kind is LimitKind.TOTAL else 1
            if not 0 < limit.bound <= MAX_BOUND or not least_ms <= limit.window_ms < 2**40:
                raise ValueError(f"limit {limit.name!r} is out of bounds")
            if abs(charge.amount) > MAX_BOUND or (step.verb is Verb.TAKE and charge.amount < 0):
                raise ValueError(f"amount {charge.amount} of limit {limit.name!r} out of bounds")


def cost_us(limit: Limit, amount: int) -> int:
    """How long a rate takes to bring back so many units."""
    return math.floor(float(amount) * (limit.window_ms * 1000) / limit.bound)


@dataclass(slots=True)
class _Total:
    used: int
    expires_us: int | None


@dataclass(slots=True)
class LimitTable:
    """The state of all limits. `apply` takes the time, in microseconds, that never goes back."""

    # The instant at which all of a rate is there again.
    _rates: dict[str, int] = field(default_factory=dict)
    # Holder to the end of its lease, the first to end first: leases of a limit are of one length.
    _slots: dict[str, dict[str, int]] = field(default_factory=dict)
    _totals: dict[str, _Total] = field(default_factory=dict)
    _steps: int = 0

    def apply(self, now_us: int, step: LimitStep) -> LimitResult:
        self._steps += 1
        if self._steps % _SWEEP_STEPS == 0:
            self._sweep(now_us)
        if step.verb is Verb.TAKE:
            granted = all(self._has_room(now_us, step.holder, c) for c in step.charges)
        else:
            granted = True
        if granted and step.verb is not Verb.LOOK:
            for charge in step.charges:
                self._charge(now_us, step, charge)
        return LimitResult(granted, tuple(self._level(now_us, c.limit) for c in step.charges))

    def __len__(self) -> int:
        """Limits that have a state."""
        return len(self._rates) + len(self._slots) + len(self._totals)

    def _has_room(self, now_us: int, holder: str, charge: Charge) -> bool:
        limit = charge.limit
        if limit.kind is LimitKind.SLOTS:
            live = self._live(now_us, limit.name)
            return holder in live or len(live) < limit.bound
        if limit.kind is LimitKind.TOTAL:
            return self._used(now_us, limit.name) + charge.amount <= limit.bound
        return (
            self._debt_us(now_us, limit) + cost_us(limit, charge.amount) <= limit.window_ms * 1000
        )

    def _charge(self, now_us: int, step: LimitStep, charge: Charge) -> None:
        limit = charge.limit
        if limit.kind is LimitKind.SLOTS:
            live = self._live(now_us, limit.name)
            live.pop(step.holder, None)
            if step.verb is not Verb.SETTLE:
                live[step.holder] = now_us + limit.window_ms * 1000
            _keep(self._slots, limit.name, live)
        elif step.verb is Verb.HOLD:
            return
        elif limit.kind is LimitKind.TOTAL:
            used = self._used(now_us, limit.name) + charge.amount
            known = self._totals.get(limit.name)
            if known is None:
                expires = now_us + limit.window_ms * 1000 if limit.window_ms else None
                self._totals[limit.name] = _Total(max(0, used), expires)
            else:
                known.used = max(0, used)
        else:
            debt_us = max(0, self._debt_us(now_us, limit) + cost_us(limit, charge.amount))
            debt_us = min(debt_us, MAX_DEBT_WINDOWS * limit.window_ms * 1000)
            _keep(self._rates, limit.name, now_us + debt_us if debt_us else 0)

    def _level(self, now_us: int, limit: Limit) -> Level:
        if limit.kind is LimitKind.SLOTS:
            return Level(limit.bound - len(self._live(now_us, limit.name)))
        if limit.kind is LimitKind.TOTAL:
            return Level(limit.bound - self._used(now_us, limit.name))
        window_us = limit.window_ms * 1000
        reset_us = self._debt_us(now_us, limit)
        return Level(math.floor(float(window_us - reset_us) * limit.bound / window_us), reset_us)

    def _debt_us(self, now_us: int, limit: Limit) -> int:
        debt_us = max(0, self._rates.get(limit.name, 0) - now_us)
        most_us = MAX_DEBT_WINDOWS * limit.window_ms * 1000
        if debt_us > most_us:
            # Its window has become shorter.
            debt_us = most_us
            self._rates[limit.name] = now_us + debt_us
        return debt_us

    def _live(self, now_us: int, name: str) -> dict[str, int]:
        live = self._slots.get(name, {})
        while live and live[first := next(iter(live))] <= now_us:
            del live[first]
        return live

    def _used(self, now_us: int, name: str) -> int:
        total = self._totals.get(name)
        if total is not None and total.expires_us is not None and total.expires_us <= now_us:
            del self._totals[name]
            total = None
        return 0 if total is None else total.used

    def _sweep(self, now_us: int) -> None:
        self._rates = {name: at for name, at in self._rates.items() if at > now_us}
        for name in list(self._slots):
            _keep(self._slots, name, self._live(now_us, name))
        for name in list(self._totals):
            self._used(now_us, name)


def _keep(table: dict[str, T], name: str, value: T) -> None:
    """An empty state is none."""
    if value:
        table[name] = value
    else:
        table.pop(name, None)
