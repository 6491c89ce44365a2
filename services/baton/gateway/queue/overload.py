"""Whether a request can still be answered in time, by what is measured; what is unknown rejects
nobody.

    wait   = cost of what will be placed before it / cost placed per second while requests wait
    needed = max(predicted TTFT on the best worker, expected output * seconds per output token)
    late   = now + margin (wait + needed) > deadline
    margin = 1 for a newcomer when nobody waits, else MARGIN + MARGIN_PER_MISS x share of misses

A request that will be late is answered at once instead of at its deadline, and when one is late at
the head of the queue it is not placed: so whatever the load, workers work for answers that arrive
in time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from baton.core.clock import Clock
from baton.core.errors import BatonError, OverloadedError, UnavailableError
from baton.core.queue_policy.vtc import INPUT_WEIGHT, OUTPUT_WEIGHT
from baton.core.settings import GatewaySettings
from baton.router import forecast
from baton.router.policy.base import RequestView
from baton.router.pool import Pool

if TYPE_CHECKING:
    from baton.gateway.running import Running

MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 60.0
# No prediction is made for requests that nothing can make late: workers queue little (two steps of
# work), so a deadline further away than this, beyond the wait in the gateway, is met.
FAR_S = 60.0
# Predictions err. Under load, times count by so much more that a bit of bad luck does not waste the
# work; the more, the larger the share of those placed of late that missed their deadlines. It costs
# no goodput, as somebody waits anyway.
MARGIN = 1.2
MARGIN_PER_MISS = 4.0
MAX_MARGIN = 2.0
# How long a prediction for one request is good.
LOOK_S = 0.05
# Weight of the newest answer in the seconds per token, and answers before they are believed.
_ALPHA = 0.02
_LEAST_ANSWERS = 8
# Shorter answers tell more of their prompts.
_LEAST_TOKENS = 4


def retry_after_s(seconds: float) -> float:
    """A prediction as clients are told: within bounds."""
    return min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, seconds))


class Refusal(NamedTuple):
    """`reason` is one of the metric's."""

    reason: str
    error: BatonError


class _Answers:
    """Decayed means over requests that were placed: seconds from there to the end, output tokens
    of a choice, and the share that missed its deadline.
    """

    __slots__ = ("missed", "num", "seconds", "tokens")

    def __init__(self) -> None:
        self.num = 0
        self.seconds = 0.0
        self.tokens = 0.0
        self.missed = 0.0

    @property
    def margin(self) -> float:
        return min(MAX_MARGIN, MARGIN + MARGIN_PER_MISS * self.missed)

    def ended(self, *, missed: bool) -> None:
        self.missed += _ALPHA * (missed - self.missed)

    def add(self, seconds: float, tokens: float) -> None:
        self.num += 1
        kept = 1 - max(_ALPHA, 1 / self.num)
        self.seconds = kept * self.seconds + (1 - kept) * seconds
        self.tokens = kept * self.tokens + (1 - kept) * tokens


class Overload:
    """Predicts for the requests of a gateway. `view_of` gives what the router knows of one."""

    def __init__(
        self,
        settings: GatewaySettings,
        pool: Pool,
        view_of: Callable[[Running], RequestView],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._view_of = view_of
        self._clock = clock
        self._answers: dict[str, _Answers] = {}
        # By model: which request was looked at last, when, and how long it was found to need.
        self._looks: dict[str, tuple[str, float, float]] = {}

    def refusal(self, running: Running, wait_s: float | None) -> Refusal | None:
        """Why a newcomer that would wait so long (None: unknown) is not taken."""
        if not self._settings.early_rejection:
            return None
        left_s = running.request.deadline - self._clock()
        goal_s = self._settings.max_predicted_ttft_s
        wait_s = wait_s or 0.0
        if wait_s + FAR_S < left_s and goal_s is None:
            return None
        if left_s <= 0:
            # No prediction is needed: it ends as all do whose deadline has passed.
            return None
        ttft_s, needed_s = self._predict(running)
        # While requests wait, those who are let in would all end at their very deadlines.
        margin = self._margin(running) if wait_s else 1.0
        if margin * (wait_s + needed_s) > left_s:
            return _refusal("deadline", margin * wait_s, margin * needed_s, left_s, "its deadline")
        if goal_s is not None and wait_s + ttft_s > goal_s:
            return _refusal("objective", wait_s, ttft_s, goal_s, "gateway.max_predicted_ttft_s")
        return None

    def is_late(self, running: Running) -> bool:
        """It has waited so long that, placed now, it would end after its deadline."""
        left_s = running.request.deadline - self._clock()
        if left_s <= 0:
            return True
        if not self._settings.early_rejection or left_s > FAR_S or running.ownership.attempt:
            return False
        return self._margin(running) * self._needed_s(running) > left_s

    def holds_back(self, running: Running) -> bool:
        """One more sequence would slow every decode worker beyond the goal: it has to wait."""
        goal_s = self._settings.max_predicted_tpot_s
        if goal_s is None:
            return False
        ownership = running.ownership
        view = RequestView(running.request.model, ownership.num_tokens, ownership.num_choices)
        columns = self._pool.columns
        for group in self._pool.groups(view.model):
            rows = group.generating
            if not len(rows):
                continue
            is_fast = forecast.tpot_s(view, columns, rows.index) <= goal_s
            is_idle = columns.sequences[rows.index] == 0
            if np.any(is_fast | is_idle | ~columns.step_is_measured[rows.index]):
                return False
        return True

    def ended(self, running: Running, seconds: float) -> None:
        """A request that was placed so many seconds ago is over."""
        answers = self._answers.setdefault(running.request.model, _Answers())
        answers.ended(missed=self._clock() >= running.request.deadline)
        tokens = running.ownership.num_generated / running.request.num_choices
        if tokens >= _LEAST_TOKENS:
            answers.add(seconds, tokens)

    def _margin(self, running: Running) -> float:
        answers = self._answers.get(running.request.model)
        return MARGIN if answers is None else answers.margin

    def cost(self, running: Running) -> float:
        """What its tenant will be charged for it, as far as is known."""
        answers = self._answers.get(running.request.model)
        output = 0.0 if answers is None else answers.tokens * running.ownership.num_choices
        return INPUT_WEIGHT * running.ownership.num_tokens + OUTPUT_WEIGHT * output

    def _needed_s(self, running: Running) -> float:
        """From its placement to the end. The head of a queue is asked about with each report of a
        worker; within LOOK_S the answer stays the same.
        """
        model, request_id = running.request.model, running.request.request_id
        now = self._clock()
        look = self._looks.get(model)
        if look is None or look[0] != request_id or now - look[1] > LOOK_S:
            look = self._looks[model] = request_id, now, self._predict(running)[1]
        return look[2]

    def _predict(self, running: Running) -> tuple[float, float]:
        """(TTFT, time to the end) from its placement, in seconds; 0 where nothing is known."""
        view = self._view_of(running)
        if view.overlap is None:
            # All of the prompt may be cached.
            view = view._replace(num_tokens=1)
        ttft_s = forecast.best_ttft_s(view, self._pool) or 0.0
        answers = self._answers.get(view.model)
        if answers is None or answers.num < _LEAST_ANSWERS:
            return ttft_s, ttft_s
        return ttft_s, max(ttft_s, view.expected_output * answers.seconds / answers.tokens)


def _refusal(reason: str, wait_s: float, then_s: float, most_s: float, limit: str) -> Refusal:
    """429 when the queue is the cause; 503 when workers would be too slow without one."""
    predicted_s = wait_s + then_s
    after_s = retry_after_s(predicted_s - most_s)
    said = (
        f"the answer is predicted to take {predicted_s:.3g} s, {wait_s:.3g} s of it in the queue, "
        f"and {limit} allows {max(0.0, most_s):.3g} s"
    )
    if then_s > most_s:
        error: BatonError = UnavailableError(
            f"no worker is fast enough now: {said}", retry_after_s=after_s
        )
    else:
        error = OverloadedError(f"too many requests wait: {said}", retry_after_s=after_s)
    return Refusal(reason, error)
