"""Queueing, placing, retrying and ending requests, against fake workers."""

from __future__ import annotations

import pytest

from baton.core.errors import (
    CancelledRequestError,
    ContextLengthError,
    DeadlineExceededError,
    HandoffError,
    ModelNotFoundError,
    OverloadedError,
    UnavailableError,
    WorkerLostError,
)
from fakes.sink import RecordingSink
from fakes.token_plane import TokenPlane, make_request
from fakes.worker import FakeWorker, Network, Side, tokens_of


def pair(**faults: bool) -> tuple[FakeWorker, FakeWorker]:
    network = Network()
    prefill = FakeWorker("p", "prefill", network=network)
    decode = FakeWorker("d", "decode", network=network)
    for name, value in faults.items():
        setattr(prefill, name, value)
    return prefill, decode


async def test_any_worker_answers_alone() -> None:
    async with TokenPlane(FakeWorker("a")) as plane:
        sink, _ = plane.submit(seed=1, n=3)
        assert await sink.end() is None
        assert sink.tokens == {c: tokens_of(1, c, 8) for c in range(3)}
        assert sink.cached == [10]
        assert not plane.workers[0].submits[0].HasField("handoff")
        plane.assert_nothing_left()


async def test_pair_gets_the_same_attempt_and_nonce() -> None:
    prefill, decode = pair()
    async with TokenPlane(prefill, decode) as plane:
        sink, _ = plane.submit(seed=1, n=2)
        assert await sink.end() is None
        assert sink.tokens == {c: tokens_of(1, c, 8) for c in range(2)}
        (source,), (target,) = prefill.submits, decode.submits
        assert source.handoff.handoff_id == target.handoff.handoff_id
        assert len(source.handoff.handoff_id) == 16
        assert source.attempt == target.attempt == 1
        assert (source.handoff.side, target.handoff.side) == (Side.SIDE_SOURCE, Side.SIDE_TARGET)
        assert source.handoff.peer == decode.lease.worker
        assert target.handoff.peer == prefill.lease.worker
        plane.assert_nothing_left()


async def test_target_faster_than_the_source_still_gives_the_right_order() -> None:
    async with TokenPlane(*pair(late_first_token=True)) as plane:
        sink, _ = plane.submit(seed=9, n=2, max_tokens=30)
        assert await sink.end() is None
        assert sink.tokens == {c: tokens_of(9, c, 30) for c in range(2)}
        plane.assert_nothing_left()


async def test_answer_of_one_token_needs_no_target() -> None:
    prefill, decode = pair()
    async with TokenPlane(prefill, decode) as plane:
        sink, _ = plane.submit(seed=1, max_tokens=1)
        assert await sink.end() is None
        await plane.until(lambda: decode.cancelled)
        plane.assert_nothing_left()
        await plane.until(lambda: decode.sessions.num_slots == prefill.sessions.num_slots == 0)


async def test_answer_of_one_token_says_what_was_cached() -> None:
    """The frame that brings the token, and with it the end, says so beside it."""
    async with TokenPlane(FakeWorker("w")) as plane:
        sink, _ = plane.submit(make_request(max_tokens=1))
        assert await sink.end() is None
        assert sink.cached == [10]


async def test_stop_by_the_sink_frees_the_worker() -> None:
    async with TokenPlane(FakeWorker("a")) as plane:
        sink, _ = plane.submit(make_request(max_tokens=100_000), RecordingSink({0: 5}))
        assert await sink.end() is None
        assert len(sink.tokens[0]) == 5
        await plane.until(lambda: not plane.workers[0].jobs)
        plane.assert_nothing_left()


async def test_requests_wait_in_order_until_there_is_room() -> None:
    async with TokenPlane(FakeWorker("a", max_running=1)) as plane:
        (worker,) = plane.workers
        await plane.until(lambda: plane.fleet.workers()[0]["load"].get("queue_room") == 1)
        sinks = [plane.submit(seed=seed, max_tokens=3)[0] for seed in range(6)]
        assert plane.num_waiting == 5
        for sink in sinks:
            assert await sink.end() is None
        assert [submit.seed for submit in worker.submits] == list(range(6))
        plane.assert_nothing_left()


async def test_full_queue_is_refused_with_a_time_to_come_back() -> None:
    async with TokenPlane(FakeWorker("a", max_running=1), max_queue=2) as plane:
        plane.workers[0].mute = True
        for _ in range(3):
            plane.submit()
        with pytest.raises(OverloadedError) as caught:
            plane.submit()
        assert 1 <= caught.value.retry_after_s <= 60
        assert plane.num_running == 3


async def test_queue_of_zero_still_takes_what_can_be_placed() -> None:
    async with TokenPlane(FakeWorker("a", max_running=1), max_queue=0) as plane:
        sink, _ = plane.submit()
        with pytest.raises(OverloadedError):
            plane.submit()
        assert await sink.end() is None


async def test_deadline_ends_a_request_that_runs() -> None:
    async with TokenPlane(FakeWorker("a")) as plane:
        (worker,) = plane.workers
        worker.mute = True
        sink, _ = plane.submit(deadline_s=0.05)
        assert isinstance(await sink.end(), DeadlineExceededError)
        await plane.until(lambda: worker.cancelled)
        plane.assert_nothing_left()


async def test_deadline_ends_a_request_that_waits() -> None:
    async with TokenPlane(FakeWorker("a", max_running=1)) as plane:
        plane.workers[0].mute = True
        plane.submit()
        await plane.until(lambda: not plane.pool.columns.queue_room.any())
        sink, _ = plane.submit(deadline_s=0.05)
        assert isinstance(await sink.end(), DeadlineExceededError)
        assert len(plane.workers[0].submits) == 1
        assert plane.num_waiting == 0


async def test_cancel_reaches_both_workers() -> None:
    prefill, decode = pair(mute=True)
    decode.mute = True
    async with TokenPlane(prefill, decode) as plane:
        sink, ticket = plane.submit()
        await plane.until(lambda: prefill.jobs and decode.jobs)
        ticket.cancel("the client went away")
        ticket.cancel("again")
        assert isinstance(sink.ends[0], CancelledRequestError)
        await plane.until(lambda: prefill.cancelled and decode.cancelled)
        plane.assert_nothing_left()


async def test_cancel_of_a_waiting_request_leaves_nothing() -> None:
    async with TokenPlane(FakeWorker("a", max_running=1)) as plane:
        plane.workers[0].mute = True
        _, first = plane.submit()
        _, waiting = plane.submit()
        waiting.cancel("gone")
        first.cancel("gone")
        plane.assert_nothing_left()
        assert len(plane.workers[0].submits) <= 1


async def test_failed_side_cancels_the_other_and_the_replay_computes_alone() -> None:
    prefill, decode = pair(mute=True)
    async with TokenPlane(prefill, decode) as plane:
        sink, _ = plane.submit(seed=6)
        await plane.until(lambda: prefill.jobs and decode.jobs)
        prefill.fail_all(HandoffError("checksum"))
        assert await sink.end() is None
        assert sink.tokens == {0: tokens_of(6, 0, 8)}
        assert len(decode.cancelled) == 1
        assert [s.attempt for s in decode.submits] == [1, 2]
        assert not decode.submits[1].HasField("handoff")
        plane.assert_nothing_left()


async def test_replay_carries_the_output_so_far() -> None:
    async with TokenPlane(FakeWorker("a"), FakeWorker("b")) as plane:
        sink, _ = plane.submit(seed=8, n=2, max_tokens=300)
        await sink.wait_tokens(10)
        first = next(w for w in plane.workers if w.jobs)
        first.fail_all(WorkerLostError("out of memory"))
        assert await sink.end() is None
        assert sink.tokens == {c: tokens_of(8, c, 300) for c in range(2)}
        (replay,) = [s for w in plane.workers for s in w.submits if s.attempt == 2]
        for choice in replay.choices:
            output = list(choice.output_so_far)
            assert output == tokens_of(8, choice.index, len(output)) and output
        assert len(first.submits) == 1, "the worker that failed it is avoided"
        plane.assert_nothing_left()


async def test_attempts_without_a_token_are_bounded() -> None:
    async with TokenPlane(FakeWorker("a"), max_attempts=3) as plane:
        (worker,) = plane.workers
        worker.mute = True
        sink, _ = plane.submit()
        for attempt in (1, 2, 3):
            await plane.until(lambda n=attempt: len(worker.submits) == n)
            worker.fail_all(WorkerLostError("no luck"))
        error = await sink.end()
        assert isinstance(error, WorkerLostError)
        assert error.message == "no luck"
        plane.assert_nothing_left()


async def test_error_of_the_request_itself_is_not_retried() -> None:
    async with TokenPlane(FakeWorker("a")) as plane:
        (worker,) = plane.workers
        worker.mute = True
        sink, _ = plane.submit()
        await plane.until(lambda: worker.jobs)
        worker.fail_all(ContextLengthError("too long by 3 tokens"))
        assert isinstance(await sink.end(), ContextLengthError)
        assert len(worker.submits) == 1


async def test_unknown_model_is_refused_by_name() -> None:
    async with TokenPlane(FakeWorker("a")) as plane:
        with pytest.raises(ModelNotFoundError, match=r"'other'.*fake"):
            plane.submit(model="other")


async def test_models_of_workers_are_known() -> None:
    async with TokenPlane(FakeWorker("a", model="extra"), models=("fake",)) as plane:
        sink, _ = plane.submit(model="extra")
        assert await sink.end() is None


async def test_requests_wait_for_the_first_worker() -> None:
    async with TokenPlane() as plane:
        sink, _ = plane.submit(seed=1)
        await plane.add(FakeWorker("a"))
        assert await sink.end() is None


async def test_a_model_that_never_had_a_worker_keeps_its_requests_to_their_deadline() -> None:
    async with TokenPlane() as plane:
        sink, _ = plane.submit(deadline_s=0.05)
        error = await sink.end()
        assert isinstance(error, DeadlineExceededError)
        assert "no worker for model 'fake' has registered" in error.message
        plane.assert_nothing_left()
        await plane.add(FakeWorker("a"))
        again, _ = plane.submit()
        assert await again.end() is None


async def test_known_model_without_a_worker_now_waits() -> None:
    async with TokenPlane(FakeWorker("a")) as plane:
        await plane.store.delete("workers/a")
        await plane.until(lambda: not plane.fleet.workers())
        sink, _ = plane.submit()
        assert plane.num_waiting == 1 and not sink.ends
        await plane.add(FakeWorker("b"))
        assert await sink.end() is None


async def test_request_waiting_for_its_first_worker_keeps_its_own_deadline() -> None:
    async with TokenPlane() as plane:
        sink, _ = plane.submit(deadline_s=0.5)
        worker = FakeWorker("a")
        worker.mute = True
        await plane.add(worker)
        assert isinstance(await sink.end(), DeadlineExceededError)


async def test_shutdown_refuses_new_and_lets_the_rest_end() -> None:
    async with TokenPlane(FakeWorker("a")) as plane:
        sink, _ = plane.submit(max_tokens=50)
        plane.dispatcher.start_shutdown()
        with pytest.raises(UnavailableError, match="shutting down"):
            plane.submit()
        await plane.dispatcher.finish(30)
        assert sink.ends == [None]


async def test_shutdown_ends_the_rest_after_its_grace() -> None:
    async with TokenPlane(FakeWorker("a")) as plane:
        plane.workers[0].mute = True
        sinks = [plane.submit()[0] for _ in range(3)]
        await plane.dispatcher.finish(0.05)
        assert all(isinstance(sink.ends[0], CancelledRequestError) for sink in sinks)
        plane.assert_nothing_left()


async def test_broken_sink_ends_its_own_request_only() -> None:
    class Broken(RecordingSink):
        def on_token(self, *args: object) -> bool:
            raise RuntimeError("bug")

    async with TokenPlane(FakeWorker("a")) as plane:
        broken, _ = plane.submit(make_request(), Broken())
        sink, _ = plane.submit(seed=2)
        assert await sink.end() is None
        assert (error := await broken.end()) is not None
        assert "RuntimeError" in error.message
        assert "bug" not in error.message, "it may hold a prompt"
        plane.assert_nothing_left()


async def test_handoffs_are_counted() -> None:
    async with TokenPlane(*pair()) as plane:
        sink, _ = plane.submit(max_tokens=30)
        assert await sink.end() is None
        text = plane.metrics.render().decode()
        assert 'baton_handoffs_total{outcome="accepted"} 1.0' in text
        assert "baton_attempts_total 1.0" in text
        assert 'worker="p"' in text
