"""A worker's sessions: frames, resuming, and what is dropped when a gateway goes away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from baton.core.request import FinishReason, TokenLogprobs
from baton.engine.outputs import TokenRow
from baton.v1 import session_pb2
from baton.wire.streams.status import Code
from baton.worker import gateway_session
from baton.worker import sessions as worker_sessions
from baton.worker.slot_log import SlotLog
from fakes.gateways_end import LEASE, ME, Bench, GatewaysEnd, close

SlotEvent = session_pb2.SlotEvent


async def test_opened_says_who_and_what_the_worker_is() -> None:
    bench = Bench()
    stream = await bench.open()
    assert stream.opened.worker == ME
    assert stream.opened.lease == LEASE
    assert not stream.opened.resumed
    await close(bench, stream)


async def test_rows_and_events_of_a_step_come_in_one_frame() -> None:
    bench = Bench()
    stream = await bench.open(1, 2)
    event = SlotEvent(kind=SlotEvent.KIND_SCHEDULED, cached_tokens=16)
    logprobs = TokenLogprobs(-1.0, (4,), (-1.0,))
    bench.sessions.publish(
        [
            TokenRow(("s", 1), 0, 0, 50),
            TokenRow(("s", 2), 1, 3, 51, FinishReason.STOP, logprobs),
        ],
        [(("s", 2), event)],
        session_pb2.Load(num_running=2),
    )
    await stream.until(lambda: stream.frames)
    frame = stream.frames[0]
    assert stream.rows == [(1, 0, 0, 50), (2, 1, 3, 51)]
    assert list(frame.flags) == [0, FinishReason.STOP]
    assert [(entry.row, entry.logprob) for entry in frame.logprobs] == [(1, -1.0)]
    assert (frame.events[0].slot, frame.events[0].cached_tokens) == (2, 16)
    assert frame.load.num_running == 2
    await close(bench, stream)


async def test_steps_that_a_slow_stream_missed_become_one_frame() -> None:
    bench = Bench()
    stream = await bench.open(1)
    stream.gate.clear()
    bench.tokens(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for position in range(1, 6):
        bench.tokens(position)
    stream.gate.set()
    await stream.until(lambda: len(stream.rows) == 6)
    assert [p for _, _, p, _ in stream.rows] == list(range(6))
    assert len(stream.frames) == 1
    await close(bench, stream)


async def test_each_gateway_gets_only_its_own_rows() -> None:
    bench = Bench()
    one = await bench.open(1, session_id="one")
    two = await bench.open(1, session_id="two")
    bench.tokens(0, session_id="one")
    bench.tokens(0, 1, session_id="two")
    await one.until(lambda: one.rows)
    await two.until(lambda: len(two.rows) == 2)
    assert len(one.rows) == 1
    await close(bench, one, two)


async def test_time_left_is_news_when_it_begins_and_ends() -> None:
    bench = Bench()
    stream = await bench.open()
    for number, left in enumerate((0, 5000, 4900, 0), 1):
        load = session_pb2.Load(sequence_number=number, draining=True, leaving_in_ms=left)
        bench.sessions.publish([], [], load)
        await asyncio.sleep(0)
        if left != 4900:
            await stream.until(lambda n=number: stream.frames[-1:] and
                               stream.frames[-1].load.sequence_number == n)  # fmt: skip
    assert [f.load.leaving_in_ms for f in stream.frames] == [0, 5000, 0]
    await close(bench, stream)


async def test_load_goes_to_every_session_once_when_it_changed() -> None:
    bench = Bench()
    one = await bench.open(session_id="one")
    bench.sessions.publish([], [], session_pb2.Load(sequence_number=1, num_running=1))
    await one.until(lambda: one.frames)
    # A moving average alone is no news.
    bench.sessions.publish([], [], session_pb2.Load(sequence_number=2, num_running=1, step_s=0.1))
    two = await bench.open(session_id="two")
    await two.until(lambda: two.frames)
    bench.sessions.publish([], [], session_pb2.Load(sequence_number=3, num_running=2))
    await one.until(lambda: len(one.frames) == 2)
    await two.until(lambda: len(two.frames) == 2)
    assert [f.load.sequence_number for f in one.frames] == [1, 3]
    assert [f.load.sequence_number for f in two.frames] == [2, 3]
    await close(bench, one, two)


async def test_rows_of_unknown_sessions_and_slots_are_dropped() -> None:
    bench = Bench()
    stream = await bench.open(1)
    bench.tokens(0, session_id="nobody")
    bench.tokens(0, slot=9)
    bench.tokens(0)
    await stream.until(lambda: stream.rows)
    assert stream.rows == [(1, 0, 0, 100)]
    await close(bench, stream)


async def test_resumed_stream_gets_exactly_what_it_has_not_seen() -> None:
    bench = Bench()
    first = await bench.open(1)
    bench.tokens(0, 1)
    await first.until(lambda: len(first.rows) == 2)
    await first.lose()
    bench.tokens(2)
    event = SlotEvent(kind=SlotEvent.KIND_SCHEDULED)
    bench.sessions.publish([], [(("s", 1), event)], None)
    points = [session_pb2.ResumePoint(slot=1, choice=0, next_position=1)]
    second = await bench.open(resume=points)
    assert second.opened.resumed
    await second.until(lambda: second.frames)
    bench.tokens(3)
    await second.until(lambda: len(second.rows) == 3)
    assert [p for _, _, p, _ in second.rows] == [1, 2, 3]
    assert second.frames[0].events[0].kind == SlotEvent.KIND_SCHEDULED
    await close(bench, second)


async def test_resume_keeps_finish_and_logprobs() -> None:
    bench = Bench()
    first = await bench.open(1)
    await first.lose()
    logprobs = TokenLogprobs(-2.0)
    bench.sessions.publish([TokenRow(("s", 1), 0, 0, 9, FinishReason.STOP, logprobs)], [], None)
    second = await bench.open(resume=[session_pb2.ResumePoint(slot=1)])
    await second.until(lambda: second.frames)
    frame = second.frames[0]
    assert list(frame.flags) == [FinishReason.STOP]
    assert frame.logprobs[0].logprob == -2.0
    await close(bench, second)


async def test_resume_drops_slots_that_the_gateway_no_longer_lists() -> None:
    bench = Bench()
    first = await bench.open(1, 2)
    await first.lose()
    second = await bench.open(resume=[session_pb2.ResumePoint(slot=2)])
    assert bench.cancelled == [("s", 1)]
    assert bench.sessions.num_slots == 1
    await close(bench, second)


async def test_submission_lost_with_the_stream_fails_retryably() -> None:
    bench = Bench()
    first = await bench.open(1)
    await first.lose()
    points = [session_pb2.ResumePoint(slot=1), session_pb2.ResumePoint(slot=2)]
    second = await bench.open(resume=points)
    await second.until(lambda: second.frames)
    (event,) = second.frames[0].events
    assert (event.slot, event.kind, event.retryable) == (2, SlotEvent.KIND_FAILED, True)
    await close(bench, second)


async def test_session_opened_again_replaces_a_stream_that_still_lives() -> None:
    bench = Bench()
    old = await bench.open(1)
    new = await bench.open(resume=[session_pb2.ResumePoint(slot=1)])
    await old.until(lambda: old.ended)
    assert old.ended is not None
    assert old.ended.code is Code.ABORTED
    bench.tokens(0)
    await new.until(lambda: new.rows)
    assert old.rows == []
    assert bench.cancelled == []
    await close(bench, new)


async def test_stream_for_which_no_frame_can_be_made_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its gateway comes again, and is not left to wait for tokens."""
    bench = Bench()
    stream = await bench.open(1)
    with monkeypatch.context() as broken:
        broken.setattr(SlotLog, "take", lambda *_: 1 / 0)
        bench.tokens(0)
        await stream.until(lambda: stream.ended)
    assert stream.ended is not None
    assert stream.ended.code is Code.INTERNAL
    assert "ZeroDivisionError" in caplog.text
    again = await bench.open(resume=[session_pb2.ResumePoint(slot=1)])
    await again.until(lambda: again.rows)
    await close(bench, again)


async def test_stream_hears_of_the_worker_though_there_is_no_news(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway_session, "HEARTBEAT_S", 0.001)
    bench = Bench()
    stream = await bench.open(1)
    await stream.until(lambda: len(stream.frames) > 2)
    assert stream.rows == []
    await stream.lose()
    again = await bench.open(resume=[session_pb2.ResumePoint(slot=1)])
    await again.until(lambda: len(again.frames) > 2)
    await close(bench, again)


async def test_gateway_that_stays_away_has_its_requests_cancelled() -> None:
    bench = Bench(grace_s=0.01)
    stream = await bench.open(1, 2)
    await stream.lose()
    await bench.until(lambda: len(bench.cancelled) == 2)
    assert bench.sessions.num_sessions == bench.sessions.num_slots == 0
    again = await bench.open(resume=[session_pb2.ResumePoint(slot=1)])
    assert not again.opened.resumed
    await close(bench, again)


async def test_session_without_slots_ends_with_its_stream() -> None:
    bench = Bench()
    stream = await bench.open()
    await stream.lose()
    assert bench.sessions.num_sessions == 0


async def test_forgotten_slot_is_kept_no_longer_and_not_cancelled() -> None:
    bench = Bench()
    stream = await bench.open(1, 2)
    stream.say(forget=session_pb2.Forget(slots=[1, 7]))
    stream.say(cancels=[session_pb2.Cancel(slot=2)])
    stream.say(cancels=[session_pb2.Cancel(slot=99)])
    await bench.until(lambda: bench.cancelled)
    assert bench.cancelled == [("s", 2)]
    assert bench.sessions.num_slots == 0
    await close(bench, stream)


async def test_a_slot_number_is_taken_once() -> None:
    bench = Bench()
    stream = await bench.open(1)
    stream.submit(1, 2)
    await bench.until(lambda: ("s", 2) in bench.submitted)
    assert bench.submitted == [("s", 1), ("s", 2)]
    await close(bench, stream)


@pytest.mark.parametrize(
    ("opening", "code"),
    [
        ({"worker_epoch": 6}, Code.FAILED_PRECONDITION),
        ({"protocol": 2}, Code.FAILED_PRECONDITION),
        ({"session_id": ""}, Code.INVALID_ARGUMENT),
    ],
)
async def test_wrong_opening_is_refused(opening: dict[str, Any], code: Code) -> None:
    bench = Bench()
    stream = GatewaysEnd(bench.sessions, **opening)
    await stream.until(lambda: stream.ended)
    assert stream.ended is not None
    assert stream.ended.code is code
    assert bench.sessions.num_sessions == 0


async def test_unknown_epoch_is_accepted() -> None:
    bench = Bench()
    stream = await bench.open(worker_epoch=0)
    await close(bench, stream)


async def test_stream_must_begin_with_open() -> None:
    bench = Bench()
    stream = GatewaysEnd(bench.sessions)
    stream.inbox.get_nowait()
    stream.submit(1)
    await stream.until(lambda: stream.ended)
    assert stream.ended is not None
    assert stream.ended.code is Code.INVALID_ARGUMENT


async def test_gateway_that_says_goodbye_ends_the_stream() -> None:
    bench = Bench(grace_s=0.01)
    stream = await bench.open(1)
    stream.inbox.put_nowait(None)
    await stream.task
    assert stream.ended is None
    await bench.until(lambda: bench.cancelled)


async def test_migrate_is_passed_on_with_the_attempt_and_ends_the_word_of_the_last_try() -> None:
    bench = Bench()
    stream = await bench.open()
    stream.say(submits=[session_pb2.Submit(slot=1, request_id="r", attempt=3)])
    await bench.until(lambda: bench.submitted)
    key = bench.submitted[0]
    bench.sessions.publish([], [(key, SlotEvent(kind=SlotEvent.KIND_MOVE_FAILED))], None)
    for slot in (99, 1):
        stream.say(migrates=[session_pb2.Migrate(slot=slot)])
    await bench.until(lambda: bench.migrated)
    assert bench.migrated == [(key, 3)], "unknown slots are ignored"
    await stream.lose()
    resume = [session_pb2.ResumePoint(slot=1)]
    resumed = await bench.open(resume=resume)
    bench.sessions.publish([TokenRow(key, 0, 0, 7)], [], None)
    await resumed.until(lambda: resumed.rows)
    assert [event for frame in resumed.frames for event in frame.events] == []


async def test_prefetch_needs_no_slot() -> None:
    bench = Bench()
    stream = await bench.open()
    stream.say(prefetches=[session_pb2.Prefetch(model="m")])
    await bench.until(lambda: bench.prefetched == ["m"])
    await close(bench, stream)


async def test_a_stream_that_says_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_sessions, "OPEN_WAIT_S", 0.01)
    stream = GatewaysEnd(Bench().sessions)
    # Not even its `open`.
    stream.inbox.get_nowait()
    await stream.until(lambda: stream.ended)
    assert stream.ended is not None
    assert (stream.ended.code, stream.ended.details) == (Code.DEADLINE_EXCEEDED, "no `open` came")


async def test_load_names_the_newest_submission_that_it_counts() -> None:
    """Each session's own, even if nothing else about the load is new."""
    bench = Bench()
    one, other = await bench.open(4, 5), await bench.open(9, session_id="other")
    bench.sessions.publish([], [], session_pb2.Load(num_waiting=2), 2)
    await one.until(lambda: one.newest_slot == 5)
    bench.sessions.publish([], [], session_pb2.Load(num_waiting=2), 3)
    await other.until(lambda: other.newest_slot == 9)
    one.submit(6)
    await bench.until(lambda: ("s", 6) in bench.submitted)
    bench.sessions.publish([], [], session_pb2.Load(num_waiting=1), 3)
    await one.until(lambda: one.frames[-1].load.num_waiting == 1)
    assert one.newest_slot == 5
    bench.sessions.publish([], [], session_pb2.Load(num_waiting=1), 4)
    await one.until(lambda: one.newest_slot == 6)
    assert other.newest_slot == 9
    bench.sessions.close()
