"""Load beyond the capacity, on virtual time with the real queue, predictions and fair share.

A server with slots, each of which makes a token each `STEP_S`; requests arrive at random with
deadlines. Goodput is what ends within them.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from dataclasses import dataclass

import pytest

from baton.core.errors import BatonError, DeadlineExceededError
from baton.core.settings import GatewaySettings
from baton.gateway.ownership import Ownership
from baton.gateway.queue.overload import Overload
from baton.gateway.queue.waiting import Waiting
from baton.gateway.running import Running
from baton.planner.output_length import OutputLengths
from baton.router.policy.base import RequestView
from baton.router.pool import Pool
from baton.telemetry.metrics import Metrics
from fakes.clock import ManualClock
from fakes.sink import RecordingSink
from fakes.token_plane import make_request

SLOTS = 16
STEP_S = 0.025
MEAN_TOKENS = 40
CAPACITY = SLOTS / (MEAN_TOKENS * STEP_S)
DEADLINE_S = 4.0


class ReadyFleet:
    """Workers are there."""

    def is_ready(self, model: str) -> bool:
        del model
        return True

    def shortage(self, model: str) -> str:
        return f"every worker for {model} is busy"


@dataclass(frozen=True)
class Source:
    """Poisson arrivals of one tenant's requests of one class, so many per second."""

    rate: float
    tenant: str = ""
    priority: int = 0


class Simulation:
    """Runs sources against the slots; `good` counts answers in time by tenant and class."""

    def __init__(self, *, fixed: bool = False, noise: float = 0.0, **settings: object) -> None:
        self.rng = random.Random(3)
        self.clock = ManualClock(1000.0)
        self.fixed = fixed
        self.noise = noise
        self.lengths = OutputLengths()
        overload = Overload(
            GatewaySettings(**settings),  # type: ignore[arg-type]
            Pool(),
            lambda running: RequestView(
                "fake", 1, expected_output=self.lengths.predict("fake", "", 1000)
            ),
            self.clock,
        )
        self.waiting = Waiting(
            ReadyFleet(),  # type: ignore[arg-type]
            GatewaySettings(**settings),  # type: ignore[arg-type]
            overload,
            Metrics(),
            self.clock,
            self.turn_away,
        )
        self.events: list[tuple[float, int, Source | Running]] = []
        self.numbers = itertools.count()
        self.tokens: dict[Running, int] = {}
        self.steps: dict[Running, float] = {}
        self.serving: set[Running] = set()
        self.good: Counter[tuple[str, int]] = Counter()
        self.asked: Counter[tuple[str, int]] = Counter()
        self.refused: Counter[str] = Counter()

    def view(self, running: Running) -> RequestView:
        expected = self.lengths.predict("fake", "", running.request.sampling.max_tokens)
        return RequestView("fake", 1, expected_output=expected)

    def run(self, seconds: float, *sources: Source) -> float:
        """Goodput in answers per second, over all but the first 20 s."""
        warm = self.clock() + 20
        end = warm + seconds
        for source in sources:
            self.at(self.rng.expovariate(source.rate), source)
        while self.events and self.events[0][0] < end:
            at, _, what = heapq.heappop(self.events)
            self.clock.now = at
            if isinstance(what, Source):
                self.arrive(what, counts=at >= warm)
            else:
                self.finish(what, counts=at >= warm)
            self.waiting.place(self.place)
        return sum(self.good.values()) / seconds

    def at(self, after_s: float, what: Source | Running) -> None:
        heapq.heappush(self.events, (self.clock() + after_s, next(self.numbers), what))

    def arrive(self, source: Source, *, counts: bool) -> None:
        self.at(self.rng.expovariate(source.rate), source)
        self.asked[source.tenant, source.priority] += counts
        tokens = MEAN_TOKENS if self.fixed else 1 + int(self.rng.expovariate(1 / MEAN_TOKENS))
        request = make_request(
            prompt_tokens=self.rng.randint(10, 30),
            max_tokens=1000,
            priority=source.priority,
            tenant=source.tenant,
        )
        object.__setattr__(request, "deadline", self.clock() + DEADLINE_S)
        running = Running(
            None,  # type: ignore[arg-type]
            request,
            Ownership(request, RecordingSink(), 3),
            self.clock,
        )
        self.tokens[running] = tokens
        try:
            self.waiting.admit(running)
            if not (self.waiting.goes_first(running) and self.place(running)):
                self.waiting.add(running)
        except BatonError as error:
            self.refused[error.code] += 1

    def place(self, running: Running) -> bool:
        if len(self.serving) >= SLOTS:
            return False
        assert self.clock() < running.request.deadline, "the dead are not placed"
        self.serving.add(running)
        running.ownership.begin()
        running.note_placement()
        self.waiting.placed(running)
        # Cut off at its deadline, as the dispatcher does.
        left_s = running.request.deadline - self.clock()
        step_s = STEP_S * self.rng.uniform(1 - self.noise, 1 + self.noise)
        self.steps[running] = step_s
        self.at(min(left_s, self.tokens[running] * step_s), running)
        return True

    def finish(self, running: Running, *, counts: bool) -> None:
        self.serving.remove(running)
        left_s = running.request.deadline - self.clock()
        took = self.clock() - running.record.attempts[0].placed_at
        num_tokens = round(took / self.steps.pop(running))
        for position in range(num_tokens):
            running.ownership.row(1, 0, position, 1, 0, None)
        if left_s > 1e-9:
            self.lengths.ended("fake", "", num_tokens)
            self.good[running.request.tenant, running.request.priority] += counts
        self.waiting.ended(running)

    def turn_away(self, running: Running, error: BatonError) -> None:
        running.ownership.fail(error)
        self.refused[error.code] += 1
        self.waiting.ended(running)


@pytest.mark.parametrize(
    ("factor", "fixed"), [(1.5, True), (3.0, True), (10.0, True), (3.0, False)]
)
def test_goodput_does_not_fall_beyond_the_capacity(factor: float, fixed: bool) -> None:
    seconds = 30.0 if fixed else 240.0
    once = Simulation(fixed=fixed).run(seconds, Source(CAPACITY))
    more = Simulation(fixed=fixed).run(seconds, Source(factor * CAPACITY))
    assert more >= 0.95 * once
    if fixed:
        assert more >= 0.93 * CAPACITY


def test_nor_where_workers_are_unsteady() -> None:
    once = Simulation(fixed=True, noise=0.6).run(60, Source(CAPACITY))
    more = Simulation(fixed=True, noise=0.6).run(60, Source(3 * CAPACITY))
    assert more >= 0.95 * once


def test_without_predictions_it_would() -> None:
    naive = Simulation(fixed=True, early_rejection=False, overload="reject_new")
    assert naive.run(60, Source(3 * CAPACITY)) < 0.5 * CAPACITY


def test_most_of_the_refused_hear_it_at_once() -> None:
    simulation = Simulation(fixed=True)
    simulation.run(60, Source(3 * CAPACITY))
    assert simulation.refused[DeadlineExceededError.code] == 0
    assert len(simulation.waiting) < DEADLINE_S * CAPACITY


def test_under_a_flood_a_light_tenant_gets_all_that_it_asks_for() -> None:
    simulation = Simulation(fixed=True)
    simulation.run(60, Source(4 * CAPACITY, "flood"), Source(0.4 * CAPACITY, "light"))
    assert simulation.good["light", 0] >= 0.97 * simulation.asked["light", 0]
    assert simulation.good["flood", 0] >= 0.5 * CAPACITY * 60


def test_two_that_ask_too_much_get_the_same() -> None:
    simulation = Simulation(fixed=True)
    simulation.run(60, Source(5 * CAPACITY, "a"), Source(CAPACITY, "b"))
    a, b = simulation.good["a", 0], simulation.good["b", 0]
    assert a == pytest.approx(b, rel=0.15)


def test_overload_costs_the_lowest_class_first() -> None:
    simulation = Simulation(fixed=True, max_queue=20)
    simulation.run(
        60,
        Source(0.3 * CAPACITY, priority=1),
        Source(0.5 * CAPACITY, priority=0),
        Source(2.0 * CAPACITY, priority=-1),
    )
    share = {
        priority: simulation.good["", priority] / simulation.asked["", priority]
        for priority in (1, 0, -1)
    }
    assert share[1] >= 0.99
    assert share[0] >= 0.95
    assert share[-1] < 0.3
