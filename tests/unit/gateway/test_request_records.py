"""What is noted of a request while real sessions carry it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from baton.core.errors import HandoffError, WorkerLostError
from baton.gateway.records.request_record import (
    MAX_ATTEMPTS,
    MAX_MOVES,
    MovedSequence,
    RequestRecord,
)
from baton.v1 import session_pb2
from fakes.token_plane import TokenPlane
from fakes.worker import FakeWorker, Network


def pair() -> tuple[FakeWorker, FakeWorker]:
    network = Network()
    return FakeWorker("p", "prefill", network=network), FakeWorker("d", "decode", network=network)


async def test_a_handed_over_request_tells_each_step_in_order() -> None:
    async with TokenPlane(*pair()) as plane:
        sink, running = plane.submit(max_tokens=20, prompt_tokens=40)
        assert await sink.end() is None
        record = running.record
        (attempt,) = record.attempts
        assert (attempt.number, attempt.prefill, attempt.decode) == (1, "p", "d")
        assert attempt.cached_tokens == 20
        # The two workers tell of their steps on streams of their own.
        for step in (attempt.scheduled_at, attempt.adopted_at):
            assert attempt.placed_at < step <= running.request.deadline
        assert record.submitted_at <= attempt.placed_at
        assert attempt.failure is None and not record.moves


async def test_a_worker_alone_has_no_handoff() -> None:
    async with TokenPlane(FakeWorker("a")) as plane:
        sink, running = plane.submit()
        assert await sink.end() is None
        (attempt,) = running.record.attempts
        assert (attempt.prefill, attempt.decode, attempt.adopted_at) == ("", "a", 0.0)


async def test_each_attempt_says_how_it_ended() -> None:
    async with TokenPlane(FakeWorker("a"), FakeWorker("b")) as plane:
        for worker in plane.workers:
            worker.mute = True
        sink, running = plane.submit()
        await plane.until(lambda: plane.workers[0].jobs or plane.workers[1].jobs)
        first = next(worker for worker in plane.workers if worker.jobs)
        second = next(worker for worker in plane.workers if worker is not first)
        first.fail_all(HandoffError("no room"))
        await plane.until(lambda: second.jobs)
        second.mute = False
        assert await sink.end() is None
        failed, good = running.record.attempts
        assert failed.failure is not None and good.failure is None
        assert failed.failure[1:] == (first.worker_id, "alone", "handoff_failed", "no room")
        assert good.decode == second.worker_id
        assert failed.failure.at <= good.queued_at <= good.placed_at


async def test_the_wait_for_a_worker_is_the_queues() -> None:
    async with TokenPlane() as plane:
        sink, running = plane.submit()
        await plane.add(FakeWorker("a"))
        assert await sink.end() is None
        (attempt,) = running.record.attempts
        assert attempt.queued_at < attempt.placed_at


async def test_moves_are_noted_with_their_workers() -> None:
    network = Network()
    old = FakeWorker("old", network=network, step_s=0.002)
    async with TokenPlane(old) as plane:
        sink, running = plane.submit(max_tokens=300)
        await sink.wait_tokens(3)
        await plane.add(FakeWorker("new", network=network, step_s=0.002))
        old.draining = True
        assert await sink.end() is None
        assert len(running.record.attempts) == 1
        (move,) = running.record.moves
        assert (move.origin, move.heir, move.reason, move.failure) == ("old", "new", "drain", "")
        assert move.began_at < move.ended_at


async def test_a_failed_move_says_so() -> None:
    network = Network()
    old = FakeWorker("old", network=network, step_s=0.002)
    async with TokenPlane(old) as plane:
        sink, running = plane.submit(max_tokens=300)
        await sink.wait_tokens(3)
        new = await plane.add(FakeWorker("new", network=network))
        new.refuse_moves = True
        old.draining = True
        assert await sink.end() is None
        assert running.record.moves[0].failure == "handoff_failed"


def test_timing_is_copied_out_of_its_frame() -> None:
    record = RequestRecord("r", 10, 1.0)
    record.placed(1.0, 1, "p", "d", None)
    frame = session_pb2.SlotEvent()
    frame.handoff.bytes, frame.handoff.transport = 1000, "nixl"
    frame.handoff.grant_wait_s, frame.handoff.transfer_s = 0.5, 0.25
    record.handed_off(frame.handoff)
    frame.Clear()
    handoff = record.attempts[0].handoff
    assert handoff is not None
    assert (handoff.num_bytes, handoff.transport, handoff.transfer_s) == (1000, "nixl", 0.25)


@given(st.lists(st.sampled_from(["place", "schedule", "adopt", "fail", "move"]), max_size=80))
def test_records_are_bounded_and_the_first_news_counts(news: list[str]) -> None:
    clock = itertools.count(1.0)
    record = RequestRecord("r", 10, next(clock))
    record.placed(next(clock), 1, "", "w", None)
    num_placed, num_moved = 1, 0
    for kind in news:
        now = next(clock)
        attempt = record.attempts[-1]
        before = (attempt.scheduled_at, attempt.adopted_at, attempt.failure)
        if kind == "place":
            num_placed += 1
            record.placed(now, num_placed, "", "w", None)
            continue
        if kind == "move":
            num_moved += 1
            record.moved(MovedSequence(now, now, "a", "b", "drain", ""))
        elif kind == "schedule":
            record.scheduled(now, 1)
        elif kind == "adopt":
            record.adopted(now)
        else:
            record.failed(now, "w", "alone", WorkerLostError("x" * 1000))
        after = (attempt.scheduled_at, attempt.adopted_at, attempt.failure)
        assert all(new == old for old, new in zip(before, after, strict=True) if old)
    assert len(record.attempts) <= MAX_ATTEMPTS and len(record.moves) <= MAX_MOVES
    assert record.attempts[0].number == 1 and record.attempts[-1].number == num_placed
    assert record.num_dropped == (num_placed - len(record.attempts)) + (
        num_moved - len(record.moves)
    )


class Choice:
    """A router's choice as records know it."""

    def to_json(self) -> Mapping[str, Any]:
        return {"reason": "because"}


async def test_the_routers_choice_is_kept_with_its_attempt() -> None:
    async with TokenPlane(FakeWorker("a")) as plane:
        sink, running = plane.submit()
        running.choice = Choice()
        running.note_placement()
        assert await sink.end() is None
        choice = running.record.attempts[-1].choice
        assert choice is not None and choice.to_json() == {"reason": "because"}


@given(age_s=st.floats(), wait_s=st.floats(0, 10))
def test_a_workers_word_on_its_begin_is_believed_between_placement_and_now(
    age_s: float, wait_s: float
) -> None:
    record = RequestRecord("r", 10, 1.0)
    record.placed(1.0, 1, "", "w", None)
    record.scheduled(1.0 + wait_s, 5, age_s)
    assert 1.0 <= record.attempts[0].scheduled_at <= 1.0 + wait_s
    if 0 <= age_s <= wait_s:
        assert abs(record.attempts[0].scheduled_at - (1.0 + wait_s - age_s)) < 1e-9
