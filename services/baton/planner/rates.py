"""How fast workers are, fitted online to what they report of their steps.

A step that computes prompts takes `prefill_base_s + tokens * prefill_s_per_token`, one that does
not `step_base_s + sequences * step_s_per_sequence + blocks * step_s_per_block`: weights are read
once, each sequence brings its share of compute, each KV block in use is read. Reports are moving
averages over about 20 steps, so neighbouring ones say nearly the same: the fit takes one in `EVERY`
steps. A worker that becomes slower or faster in all is seen in a few steps (`planner.level`). Not
every step is reported, so what counts is how many each report stands for.

What a worker has not shown yet is taken from its pool (workers of the same model, digest and role),
then from all workers of the digest, then from the defaults. Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from operator import mul
from typing import NamedTuple

from baton.planner.level import Level
from baton.planner.linear_fit import LinearFit

# Guesses for a worker of which nobody knows anything: a small GPU's. A step with prompts has the
# overhead of any other, so that a first short prompt that takes long does not make tokens dear.
DEFAULT_PREFILL_TOKENS_PER_S = 10_000.0
DEFAULT_STEP_S = 0.02

# Once in so many steps a report is fitted to; fitting takes longer than everything else about it.
EVERY = 8
# A report stands for the steps since the one before; of more than these it tells nothing.
MOST_STEPS = 20
_WORKER_FORGETTING = 0.99
_POOL_FORGETTING = 0.998
# What is known of a group counts as so many observations of the worker, or smaller group: workers
# of a pool are alike until there is much to the contrary, as one that was disturbed in its first
# steps must not be shunned for it.
_PRIOR_WEIGHT = 16.0
# Against coefficients that have not been told apart: next to nothing.
_LEAST_WEIGHT = 1e-3
# Steps of a worker, and observations of a group, that must agree on a change of level.
_WORKER_LEVEL = 5
_GROUP_LEVEL = 16
# Observations before which a fit is no measure of others: a worker's first steps are its slowest.
# From then on, one that is further from what was expected than a factor of _FURTHEST counts as so
# far.
_LEAST_FITTED = 3
_FURTHEST = 2.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Coefficients in seconds, see the module. Those of prompts, or of other steps, are measured
    when they are known from reports, of this worker or others like it.
    """

    prefill_base_s: float = DEFAULT_STEP_S
    prefill_s_per_token: float = 1 / DEFAULT_PREFILL_TOKENS_PER_S
    step_base_s: float = DEFAULT_STEP_S
    step_s_per_sequence: float = 0.0
    step_s_per_block: float = 0.0
    prefill_is_measured: bool = False
    step_is_measured: bool = False


class PoolKey(NamedTuple):
    """Workers that are alike: interned digest, and role."""

    digest: int
    role: int


class StepReport(NamedTuple):
    """What a worker says of its steps: zeros for what it does not know.

    `prefill_step_s` and `prefill_tokens_per_s`: of steps with prompt tokens, `step_s`: of others,
    with `num_running` sequences that use `used_blocks` KV blocks. `num_steps`: the worker's steps
    so far.
    """

    prefill_tokens_per_s: float
    prefill_step_s: float
    step_s: float
    num_running: int
    used_blocks: int
    num_steps: int = 0


class Learnt(Enum):
    """What a report has told. Pools are news at their first, second, fourth, eighth observation:
    often while little is known, and seldom when it would cost much to tell everyone.
    """

    NOTHING = auto()
    OF_WORKER = auto()
    OF_ALL = auto()


class _Fit:
    """Of one kind of step: what it depends on, and its level."""

    __slots__ = ("_expected", "_fitted", "_level", "_linear", "_told")

    def __init__(
        self, num_features: int, forgetting: float, prior_weight: float, num_newest: int
    ) -> None:
        self._linear = LinearFit(num_features, forgetting, prior_weight)
        self._level = Level(num_newest)
        # What was solved last, without and with the level; and that level.
        self._fitted: tuple[float, ...] = ()
        self._expected: tuple[float, ...] = ()
        self._told = 1.0

    @property
    def num_observations(self) -> int:
        return self._linear.num_observations

    @property
    def _is_settled(self) -> bool:
        return self.num_observations >= _LEAST_FITTED

    def look(self, x: Sequence[float], step_s: float, worth: float) -> bool:
        """Whether with this report the level is another."""
        self._level.add(x, step_s, worth)
        if not self._is_settled or not self._fitted:
            return False
        moved = self._level.factor(self._fitted) / self._told
        return not 0.9 < moved < 1.1

    def learn(self, x: Sequence[float], step_s: float, worth: float) -> bool:
        """Take an observation into the fit; whether there are so many that it is news."""
        expected_s = step_s
        if self._is_settled and self._expected:
            expected_s = sum(map(mul, self._expected, x)) or step_s
        # Relative to what was expected, an error counts the same in short and in long steps.
        share = min(_FURTHEST, max(1 / _FURTHEST, step_s / expected_s))
        self._linear.add([value / expected_s for value in x], share, worth)
        return self.num_observations.bit_count() == 1

    def solve(self, prior: Sequence[float]) -> tuple[float, ...]:
        """The coefficients, `prior` being those of the next larger group."""
        self._fitted = self._linear.solve(prior)
        self._told = self._level.factor(self._fitted) if self._is_settled else 1.0
        self._expected = tuple(self._told * value for value in self._fitted)
        return self._expected


class _Fits:
    """One worker's, or one group's, two fits."""

    __slots__ = ("_decode", "_has_overhead", "_prefill")

    def __init__(self, forgetting: float, prior_weight: float, num_newest: int) -> None:
        self._prefill = _Fit(2, forgetting, prior_weight, num_newest)
        self._decode = _Fit(3, forgetting, prior_weight, num_newest)
        # Workers that give no step time are taken to have none.
        self._has_overhead = True

    def look(self, report: StepReport, worth: float) -> bool:
        """Whether with this report the level is another."""
        is_moved = False
        for fit, x, step_s in self._observations(report):
            is_moved |= fit.look(x, step_s, worth)
        return is_moved

    def learn(self, report: StepReport, worth: float) -> bool:
        """Whether so much has been learnt that it concerns those who rely on this."""
        is_news = False
        for fit, x, step_s in self._observations(report):
            is_news |= fit.learn(x, step_s, worth)
        return is_news

    def _observations(self, report: StepReport) -> Iterator[tuple[_Fit, tuple[float, ...], float]]:
        """What it says of which fit: features, and the seconds of a step."""
        if report.prefill_tokens_per_s > 0:
            step_s = report.prefill_step_s or 1000 / report.prefill_tokens_per_s
            self._has_overhead = report.prefill_step_s > 0
            x = (float(self._has_overhead), report.prefill_tokens_per_s * step_s)
            yield self._prefill, x, step_s
        if report.step_s > 0 and report.num_running:
            x3 = (1.0, float(report.num_running), float(report.used_blocks))
            yield self._decode, x3, report.step_s

    def rates(self, prior: Rates) -> Rates:
        """`prior` is of the next larger group."""
        base_s = prior.prefill_base_s if self._has_overhead else 0.0
        prefill_base_s, prefill_s_per_token = self._prefill.solve(
            (base_s, prior.prefill_s_per_token)
        )
        step_base_s, per_sequence, per_block = self._decode.solve(
            (prior.step_base_s, prior.step_s_per_sequence, prior.step_s_per_block)
        )
        return Rates(
            prefill_base_s,
            prefill_s_per_token,
            step_base_s,
            per_sequence,
            per_block,
            prior.prefill_is_measured or bool(self._prefill.num_observations),
            prior.step_is_measured or bool(self._decode.num_observations),
        )


class RateFits:
    """Fits for each worker, its pool, and its digest."""

    def __init__(self) -> None:
        self._workers: dict[int, _Fits] = {}
        # Steps at the newest report, and since one was learnt from.
        self._num_steps: dict[int, tuple[int, int]] = {}
        self._pools: dict[PoolKey, _Fits] = {}
        self._digests: dict[int, _Fits] = {}

    def observe(self, worker: int, pool: PoolKey, report: StepReport) -> Learnt:
        """Take a report of a worker, and say whose rates have changed by it."""
        if not (report.prefill_tokens_per_s > 0 or report.step_s > 0):
            return Learnt.NOTHING
        fits = self._workers.get(worker)
        if fits is None:
            fits = self._workers[worker] = _Fits(_WORKER_FORGETTING, _PRIOR_WEIGHT, _WORKER_LEVEL)
            new_steps, unlearnt = 1, EVERY
        else:
            before, unlearnt = self._num_steps[worker]
            new_steps = min(MOST_STEPS, max(1, report.num_steps - before))
            unlearnt = min(MOST_STEPS, unlearnt + new_steps)
        learns = unlearnt >= EVERY
        self._num_steps[worker] = report.num_steps, 0 if learns else unlearnt
        is_moved = fits.look(report, new_steps)
        if not learns:
            return Learnt.OF_WORKER if is_moved else Learnt.NOTHING
        worth = unlearnt / EVERY
        fits.learn(report, worth)
        is_news = False
        for group in (self._pool(pool), self._digest(pool.digest)):
            # That a group's level is another concerns all who rely on it, too.
            is_news |= group.look(report, worth)
            is_news |= group.learn(report, worth)
        return Learnt.OF_ALL if is_news else Learnt.OF_WORKER

    def rates(self, worker: int, prior: Rates) -> Rates:
        """Of a worker, `prior` being its pool's."""
        fits = self._workers.get(worker)
        return prior if fits is None else fits.rates(prior)

    def prior(self, pool: PoolKey) -> Rates:
        """What a worker is taken to do that has reported nothing."""
        rates = Rates()
        if (digest := self._digests.get(pool.digest)) is not None:
            rates = digest.rates(rates)
        if (fits := self._pools.get(pool)) is not None:
            rates = fits.rates(rates)
        return rates

    def forget(self, worker: int) -> None:
        """The worker is gone. What it has shown of its pool stays."""
        self._workers.pop(worker, None)
        self._num_steps.pop(worker, None)

    def _pool(self, pool: PoolKey) -> _Fits:
        return self._pools.setdefault(pool, _Fits(_POOL_FORGETTING, _PRIOR_WEIGHT, _GROUP_LEVEL))

    def _digest(self, digest: int) -> _Fits:
        return self._digests.setdefault(
            digest, _Fits(_POOL_FORGETTING, _LEAST_WEIGHT, _GROUP_LEVEL)
        )
