"""The way of limit steps to the store: together, in order, one call at a time.

Steps that come while a call is under way leave with the next, so a busy gateway asks the store far
less often than it has requests, and a settlement is never overtaken by what comes after it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from baton.core.clock import Clock, monotonic
from baton.core.errors import BatonError
from baton.store.base import Store, StoreUnavailableError
from baton.store.limits import (
    MAX_STEPS,
    Charge,
    Limit,
    LimitKind,
    LimitResult,
    LimitStep,
    Verb,
)
from baton.telemetry.logging import event

log = logging.getLogger(__name__)

# After a failure nothing is asked for so long: each request would wait for the timeout again.
PAUSE_S = 1.0
# What waits for the store at most; beyond it the store counts as down.
MAX_WAITING = 20_000


class _Waiting(NamedTuple):
    step: LimitStep
    # None when nobody waits for the result.
    result: asyncio.Future[LimitResult] | None


class LimitPipe:
    """`took` is told how long each call took, in seconds."""

    def __init__(
        self,
        store: Store,
        timeout_s: float,
        took: Callable[[float], None],
        clock: Clock = monotonic,
    ) -> None:
        self._store = store
        self._timeout_s = timeout_s
        self._took = took
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None
        self._down_until = 0.0
        # Totals that could not be settled, by name; rates and slots come back by themselves.
        self._owed: dict[str, Charge] = {}

    @property
    def is_down(self) -> bool:
        return self._clock() < self._down_until

    async def ask(self, step: LimitStep) -> LimitResult:
        """Have a step carried out. Raises StoreUnavailableError, soon.

        A caller that is cancelled gets what was taken settled.
        """
        if self.is_down or len(self._waiting) >= MAX_WAITING:
            raise StoreUnavailableError("the store does not answer about limits")
        result: asyncio.Future[LimitResult] = asyncio.get_running_loop().create_future()
        self._push(_Waiting(step, result))
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            if step.verb is Verb.TAKE:
                result.add_done_callback(lambda done: self._give_back(step, done))
            raise

    def tell(self, step: LimitStep) -> None:
        """Have a step carried out some time; what a total lacks is made up for after an outage."""
        if self.is_down or len(self._waiting) >= MAX_WAITING:
            self._owe(step)
        else:
            self._push(_Waiting(step, None))

    async def flush(self) -> None:
        """Wait until everything has been sent, or has failed."""
        while self._task is not None:
            await asyncio.wait([self._task])

    def _push(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        if self._task is None:
            self._task = asyncio.create_task(self._send())

    async def _send(self) -> None:
        try:
            while self._waiting:
                if self._owed:
                    owed, self._owed = tuple(self._owed.values()), {}
                    self._waiting.appendleft(_Waiting(LimitStep(Verb.SETTLE, "", owed), None))
                batch = [self._waiting.popleft() for _ in range(min(MAX_STEPS, len(self._waiting)))]
                try:
                    results = await self._call([waiting.step for waiting in batch])
                except Exception as error:
                    if not isinstance(error, BatonError):
                        log.exception(*event("limits_failed"))
                    self._failed(batch, error)
                else:
                    for waiting, result in zip(batch, results, strict=True):
                        if waiting.result is not None and not waiting.result.done():
                            waiting.result.set_result(result)
        finally:
            self._task = None

    async def _call(self, steps: list[LimitStep]) -> list[LimitResult]:
        started = self._clock()
        try:
            async with asyncio.timeout(self._timeout_s):
                return list(await self._store.limit(steps))
        except TimeoutError as error:
            raise StoreUnavailableError("the store does not answer in time") from error
        finally:
            self._took(self._clock() - started)

    def _failed(self, batch: list[_Waiting], error: Exception) -> None:
        """Those that were sent may have been carried out: they are not sent again."""
        self._down_until = self._clock() + PAUSE_S
        unsent, self._waiting = self._waiting, deque()
        for waiting in unsent:
            if waiting.result is None:
                self._owe(waiting.step)
        for waiting in (*batch, *unsent):
            if waiting.result is not None and not waiting.result.done():
                waiting.result.set_exception(
                    StoreUnavailableError(f"the store does not answer about limits: {error}")
                )
                # Its caller may have gone.
                waiting.result.exception()

    def _owe(self, step: LimitStep) -> None:
        if step.verb is not Verb.SETTLE:
            return
        for charge in step.charges:
            limit: Limit = charge.limit
            if limit.kind is LimitKind.TOTAL:
                known = self._owed.get(limit.name)
                amount = charge.amount + (0 if known is None else known.amount)
                self._owed[limit.name] = Charge(limit, amount)

    def _give_back(self, step: LimitStep, taken: asyncio.Future[LimitResult]) -> None:
        if taken.cancelled() or taken.exception() is not None or not taken.result().granted:
            return
        charges = tuple(Charge(charge.limit, -charge.amount) for charge in step.charges)
        self.tell(LimitStep(Verb.SETTLE, step.holder, charges))
