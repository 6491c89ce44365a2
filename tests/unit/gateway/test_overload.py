"""Predictions of lateness, from measured rates only."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from baton.core.errors import OverloadedError, UnavailableError
from baton.core.settings import GatewaySettings
from baton.gateway.ownership import Ownership
from baton.gateway.queue.overload import FAR_S, MARGIN, Overload
from baton.gateway.queue.pace import LEAST_SERVED, Pace
from baton.gateway.running import Running
from baton.router.policy.base import RequestView
from baton.router.pool import Pool
from baton.router.prefix_index import Overlap
from baton.v1 import common_pb2, session_pb2
from fakes.clock import ManualClock
from fakes.sink import RecordingSink
from fakes.token_plane import make_request

MODEL = "fake"
NOTHING_CACHED = Overlap(*(np.zeros(8, np.int64) for _ in range(3)), 0)


class World:
    """A pool with one worker that computes 1,000 prompt tokens/s, once it has `measured`."""

    def __init__(self, **settings: object) -> None:
        self.clock = ManualClock(100.0)
        self.pool = Pool()
        self.row = self.pool.add(
            common_pb2.WorkerLease(
                worker=common_pb2.WorkerRef(worker_id="a", epoch=1),
                role=common_pb2.WORKER_ROLE_ANY,
                model=MODEL,
                capacity=common_pb2.Capacity(
                    num_blocks=1000, block_size=16, max_sequences=8, max_batch_tokens=1024
                ),
            )
        )
        self.pool.set_up(self.row, True)
        self.expected_output = 0
        self.knows_caches = True
        self.num_views = 0
        self.overload = Overload(GatewaySettings(**settings), self.pool, self.view, self.clock)

    def measured(self, step_s: float = 0.01, num_running: int = 1) -> World:
        for number in range(1, 100):
            self.pool.report(
                self.row,
                session_pb2.Load(
                    sequence_number=number,
                    prefill_tokens_per_s=1000.0,
                    step_s=step_s,
                    num_running=num_running,
                    free_blocks=1000,
                    queue_room=4,
                ),
            )
        return self

    def answered(self, seconds: float, num_tokens: int, count: int = 20) -> World:
        """Answers that took so long."""
        for _ in range(count):
            request = self.request(1000.0)
            request.ownership.begin()
            for position in range(num_tokens):
                request.ownership.row(1, 0, position, 1, 0, None)
            self.overload.ended(request, seconds)
        return self

    def request(self, deadline_s: float, num_tokens: int = 100) -> Running:
        request = make_request(prompt_tokens=num_tokens, max_tokens=10_000)
        object.__setattr__(request, "deadline", self.clock() + deadline_s)
        ownership = Ownership(request, RecordingSink(), 3)
        return Running(None, request, ownership, self.clock)  # type: ignore[arg-type]

    def view(self, running: Running) -> RequestView:
        self.num_views += 1
        return RequestView(
            MODEL,
            running.ownership.num_tokens,
            overlap=NOTHING_CACHED if self.knows_caches else None,
            expected_output=self.expected_output,
        )


def test_what_is_unknown_rejects_nobody() -> None:
    world = World(max_predicted_ttft_s=0.001, max_predicted_tpot_s=0.001)
    world.expected_output = 1000
    request = world.request(0.001, num_tokens=5000)
    assert world.overload.refusal(request, None) is None
    assert not world.overload.is_late(request)
    assert not world.overload.holds_back(request)


def test_a_long_queue_is_429_with_the_time_by_which_it_is_too_long() -> None:
    world = World().measured()
    refusal = world.overload.refusal(world.request(10.0), 30.0)
    assert refusal is not None and refusal.reason == "deadline"
    assert isinstance(refusal.error, OverloadedError)
    # 30 s in the queue and about 0.1 s of compute, with the margin, where 10 s are allowed.
    assert refusal.error.retry_after_s == pytest.approx(MARGIN * 30.1 - 10, abs=0.3)
    assert world.overload.refusal(world.request(10.0), 9.0 / MARGIN) is None


def test_workers_too_slow_for_the_deadline_are_503() -> None:
    world = World().measured()
    refusal = world.overload.refusal(world.request(2.0, num_tokens=5000), 0.0)
    assert refusal is not None
    assert isinstance(refusal.error, UnavailableError)
    assert refusal.error.retry_after_s == pytest.approx(3.0, abs=0.3)


def test_the_answer_counts_as_far_as_its_length_is_known() -> None:
    world = World().measured().answered(seconds=2.0, num_tokens=20)
    assert world.overload.refusal(world.request(5.0), 0.0) is None
    world.expected_output = 100
    assert world.overload.refusal(world.request(5.0), 0.0) is not None, "10 s are needed"
    assert world.overload.refusal(world.request(11.0), 0.0) is None


def test_misses_widen_the_margin_as_long_as_they_happen() -> None:
    world = World().measured().answered(seconds=2.0, num_tokens=20)
    world.expected_output = 20
    request = world.request(10.0)
    assert world.overload.refusal(request, 5.0) is None
    for _ in range(20):
        missed = world.request(0.0)
        missed.ownership.begin()
        world.overload.ended(missed, 1.0)
    assert world.overload.refusal(request, 5.0) is not None
    assert world.overload.refusal(world.request(10.0), 0.0) is None, "nobody waits"
    world.answered(seconds=2.0, num_tokens=20, count=200)
    assert world.overload.refusal(request, 5.0) is None


def test_few_answers_say_nothing() -> None:
    world = World().measured().answered(seconds=2.0, num_tokens=20, count=3)
    world.expected_output = 1000
    assert world.overload.refusal(world.request(5.0), 0.0) is None


def test_goal_for_the_first_token() -> None:
    world = World(max_predicted_ttft_s=1.0).measured()
    refusal = world.overload.refusal(world.request(1000.0, num_tokens=2000), 0.0)
    assert refusal is not None and refusal.reason == "objective"
    assert world.overload.refusal(world.request(1000.0, num_tokens=500), 0.0) is None
    assert world.overload.refusal(world.request(1000.0, num_tokens=500), 0.7) is not None


def test_goal_for_each_token_holds_requests_back() -> None:
    fast, slow = (
        World(max_predicted_tpot_s=0.05).measured(step_s=step_s) for step_s in (0.01, 0.2)
    )
    assert not fast.overload.holds_back(fast.request(10.0))
    assert slow.overload.holds_back(slow.request(10.0))


def test_an_idle_worker_takes_a_request_whatever_the_goal() -> None:
    world = World(max_predicted_tpot_s=1e-6).measured()
    world.measured(num_running=0)
    assert not world.overload.holds_back(world.request(10.0))


def test_late_is_who_would_end_after_the_deadline() -> None:
    world = World().measured().answered(seconds=2.0, num_tokens=20)
    world.expected_output = 20
    request = world.request(10.0)
    assert not world.overload.is_late(request)
    world.clock.advance(9.9 - 2.0 * MARGIN)
    assert not world.overload.is_late(request)
    world.clock.advance(0.2)
    assert world.overload.is_late(request)


def test_who_has_begun_is_late_only_when_the_deadline_has_passed() -> None:
    world = World().measured().answered(seconds=2.0, num_tokens=20)
    world.expected_output = 20
    request = world.request(1.0)
    request.ownership.begin()
    assert not world.overload.is_late(request)
    world.clock.advance(1.1)
    assert world.overload.is_late(request)


def test_early_rejection_off_keeps_the_deadline_itself() -> None:
    world = World(early_rejection=False).measured()
    request = world.request(1.0, num_tokens=5000)
    assert world.overload.refusal(request, 100.0) is None
    assert not world.overload.is_late(request)
    world.clock.advance(1.0)
    assert world.overload.is_late(request)


def test_a_prompt_that_may_be_cached_is_not_taken_to_be_computed() -> None:
    world = World().measured()
    world.knows_caches = False
    assert world.overload.refusal(world.request(2.0, num_tokens=5000), 0.0) is None


def test_far_deadlines_cost_no_prediction() -> None:
    world = World().measured()
    request = world.request(FAR_S + 11, num_tokens=5)
    assert world.overload.refusal(request, 10.0) is None
    assert not world.overload.is_late(request)
    assert not world.num_views
    assert world.overload.refusal(request, 12.0) is None
    assert world.num_views


@given(
    st.floats(1.0, 1000.0),
    st.lists(st.floats(0.01, 0.5), min_size=200, max_size=300),
)
def test_pace_is_that_of_the_time_in_which_somebody_waited(cost: float, gaps: list[float]) -> None:
    """Served in regular turns of waiting, with pauses between that do not count."""
    pace = Pace()
    now = 0.0
    busy = 0.0
    for number, gap in enumerate(gaps):
        pace.waits(now)
        now += gap
        busy += gap
        pace.served(now, cost * gap)
        if number % 3 == 0:
            pace.rests(now)
            now += 1000.0
            pace.served(now, 1e9)
    if busy > 30:
        assert pace.rate(now) == pytest.approx(cost, rel=0.1)


def test_pace_is_unknown_before_something_was_seen() -> None:
    pace = Pace()
    assert pace.rate(1.0) is None
    pace.waits(1.0)
    pace.served(2.0, 10.0)
    assert pace.rate(2.0) is None, "one is not enough"
    for number in range(int(LEAST_SERVED) + 2):
        pace.served(2.0 + number / 10, 10.0)
    assert pace.rate(3.0) is not None


def test_pace_falls_while_nothing_is_served() -> None:
    pace = Pace()
    pace.waits(0.0)
    for number in range(100):
        pace.served(number / 10, 10.0)
    before = pace.rate(10.0)
    after = pace.rate(15.0)
    assert before is not None and after is not None
    assert after < 0.8 * before
