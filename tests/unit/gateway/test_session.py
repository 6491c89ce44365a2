"""The gateway's session with one worker, over a real connection that can be broken."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from baton.core.clock import monotonic
from baton.core.errors import BatonError, HandoffError
from baton.core.request import TokenLogprobs
from baton.engine.outputs import TokenRow
from baton.gateway.workers.outbox import FORGET_BATCH, Outbox
from baton.gateway.workers.session import Loss, WorkerSession
from baton.v1 import common_pb2, session_pb2
from baton.wire.request import submit_from_request
from fakes.token_plane import make_request
from fakes.until import until
from fakes.worker import TOKEN, FakeWorker, token_at, tokens_of

SlotEvent = session_pb2.SlotEvent


class Listener:
    """Keeps what one slot heard."""

    def __init__(self) -> None:
        self.received: dict[int, int] = {}
        self.rows: list[tuple[int, int, int, int]] = []
        self.logprobs: list[TokenLogprobs | None] = []
        self.events: list[SlotEvent] = []
        self.lost: list[BatonError] = []

    def on_row(
        self, choice: int, position: int, token: int, flags: int, logprobs: TokenLogprobs | None
    ) -> None:
        self.received[choice] = position + 1
        self.rows.append((choice, position, token, flags))
        self.logprobs.append(logprobs)

    def on_event(self, slot_event: SlotEvent) -> None:
        self.events.append(slot_event)

    def on_lost(self, error: BatonError) -> None:
        self.lost.append(error)

    def tokens(self, choice: int = 0) -> list[int]:
        return [token for c, _, token, _ in self.rows if c == choice]


class Owner:
    """Keeps what a session says about itself."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.losses: list[Loss] = []
        self.loads: list[session_pb2.Load] = []

    def on_up(self, session: WorkerSession) -> None:
        self.said.append("up")

    def on_down(self, session: WorkerSession, reason: str) -> None:
        self.said.append("down")

    def on_gone(self, session: WorkerSession, loss: Loss) -> None:
        self.said.append("gone")
        self.losses.append(loss)

    def on_load(self, session: WorkerSession, load: session_pb2.Load) -> None:
        self.loads.append(load)


class Bench:
    def __init__(self, worker: FakeWorker, window_s: float = 30.0) -> None:
        self.worker = worker
        self.owner = Owner()
        self.window_s = window_s
        self.sessions: list[WorkerSession] = []

    def session(self, token: str = TOKEN, **ref: Any) -> WorkerSession:
        worker = common_pb2.WorkerRef()
        worker.CopyFrom(self.worker.lease.worker)
        for name, value in ref.items():
            setattr(worker, name, value)
        session = WorkerSession(worker, token, self.owner, self.window_s, monotonic)
        session.start()
        self.sessions.append(session)
        return session

    async def up(self) -> WorkerSession:
        session = self.session()
        await until(lambda: session.is_up)
        return session

    def submit(self, session: WorkerSession, **request: Any) -> tuple[int, Listener]:
        listener = Listener()
        slot = session.open_slot(listener)
        submit = submit_from_request(make_request(**request), attempt=1, now=monotonic())
        submit.slot = slot
        session.submit(submit)
        return slot, listener


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    worker = await FakeWorker("w").start()
    bench = Bench(worker)
    yield bench
    for session in bench.sessions:
        await session.close()
    await worker.die()


async def test_tokens_of_a_submission_arrive(bench: Bench) -> None:
    session = await bench.up()
    _, listener = bench.submit(session, seed=4, n=2, max_tokens=5)
    await until(lambda: len(listener.rows) == 10)
    assert listener.tokens(0) == tokens_of(4, 0, 5)
    assert listener.tokens(1) == tokens_of(4, 1, 5)
    assert listener.events[0].kind == SlotEvent.KIND_SCHEDULED
    assert bench.owner.loads


async def test_logprobs_stay_with_their_rows(bench: Bench) -> None:
    bench.worker.mute = True
    session = await bench.up()
    slot, listener = bench.submit(session)
    await until(lambda: bench.worker.jobs)
    (key,) = bench.worker.jobs
    logprobs = TokenLogprobs(-0.5, (1, 2), (-0.5, -2.0))
    bench.worker.say(
        TokenRow((key[0], 99), 0, 0, 1, None, TokenLogprobs(-9.0)),
        TokenRow(key, 0, 0, 7, None, logprobs),
        TokenRow(key, 0, 1, 8),
    )
    await until(lambda: len(listener.rows) == 2)
    assert listener.logprobs == [logprobs, None]
    assert slot == key[1]


async def test_stream_broken_mid_generation_resumes_without_gap_or_repeat(bench: Bench) -> None:
    session = await bench.up()
    listeners = [bench.submit(session, seed=seed, max_tokens=300)[1] for seed in range(5)]
    for cut_at in (20, 120):
        await until(lambda n=cut_at: len(listeners[0].rows) >= n)
        bench.worker.link.cut()
    await until(lambda: all(len(listener.rows) == 300 for listener in listeners))
    for seed, listener in enumerate(listeners):
        assert listener.tokens() == tokens_of(seed, 0, 300)
    assert bench.owner.said == ["up", "down", "up", "down", "up"]


async def test_submission_made_while_the_stream_is_down_arrives(bench: Bench) -> None:
    session = await bench.up()
    bench.worker.link.cut()
    await until(lambda: "down" in bench.owner.said)
    _, listener = bench.submit(session, seed=2, max_tokens=3)
    await until(lambda: len(listener.rows) == 3)
    assert not listener.lost


async def test_slot_cancelled_while_the_stream_is_down_is_cancelled_there(bench: Bench) -> None:
    bench.worker.mute = True
    session = await bench.up()
    slot, listener = bench.submit(session)
    await until(lambda: bench.worker.jobs)
    bench.worker.link.cut()
    await until(lambda: "down" in bench.owner.said)
    session.cancel(slot)
    await until(lambda: bench.worker.cancelled)
    assert not listener.lost
    assert session.num_slots == 0


async def test_cancelled_slot_hears_no_more(bench: Bench) -> None:
    session = await bench.up()
    slot, listener = bench.submit(session, max_tokens=100_000)
    await until(lambda: listener.rows)
    session.cancel(slot)
    session.cancel(slot)
    heard = len(listener.rows)
    await until(lambda: bench.worker.cancelled)
    assert len(listener.rows) == heard
    assert len(bench.worker.cancelled) == 1


async def test_submission_cancelled_before_it_left_never_leaves(bench: Bench) -> None:
    session = bench.session()
    slot, _ = bench.submit(session)
    session.cancel(slot)
    _, other = bench.submit(session, max_tokens=1)
    await until(lambda: other.rows)
    assert len(bench.worker.submits) == 1


async def test_ended_slots_are_forgotten_in_batches(bench: Bench) -> None:
    session = await bench.up()
    submitted = [bench.submit(session, max_tokens=1) for _ in range(FORGET_BATCH + 3)]
    await until(lambda: all(listener.rows for _, listener in submitted))
    assert bench.worker.sessions.num_slots == len(submitted)
    for slot, _ in submitted:
        session.forget(slot)
    await until(lambda: bench.worker.sessions.num_slots == 0)
    assert bench.worker.cancelled == []


async def test_session_that_the_worker_dropped_loses_its_slots() -> None:
    worker = await FakeWorker("w", session_grace_s=0.01).start()
    bench = Bench(worker)
    session = await bench.up()
    worker.mute = True
    _, listener = bench.submit(session)
    await until(lambda: worker.jobs)
    worker.link.hold()
    worker.link.cut()
    await until(lambda: worker.cancelled)
    worker.link.resume()
    await until(lambda: listener.lost)
    assert listener.lost[0].retryable
    await until(lambda: session.is_up)
    _, after = bench.submit(session, seed=1, max_tokens=1)
    worker.mute = False
    await until(lambda: after.tokens() == [token_at(1, 0, 0)])
    await session.close()
    await worker.die()


async def test_refused_connection_ends_the_worker_at_once(bench: Bench) -> None:
    bench.window_s = 3600
    session = await bench.up()
    _, listener = bench.submit(session, max_tokens=100_000)
    await until(lambda: listener.rows)
    await bench.worker.die()
    await until(lambda: bench.owner.losses)
    assert bench.owner.losses[0].cause == "refused"
    assert listener.lost[0].retryable
    assert bench.owner.said == ["up", "down", "gone"]
    assert session.num_slots == 0


async def test_worker_that_never_was_there_is_given_up_at_once(bench: Bench) -> None:
    bench.window_s = 3600
    await bench.worker.die()
    bench.session()
    await until(lambda: bench.owner.losses)
    assert bench.owner.losses[0].cause == "refused"


async def test_silent_worker_is_given_up_after_the_window(bench: Bench) -> None:
    bench.window_s = 0.2
    session = await bench.up()
    _, listener = bench.submit(session, max_tokens=100_000)
    await until(lambda: listener.rows)
    bench.worker.link.hold()
    bench.worker.link.cut()
    await until(lambda: bench.owner.losses)
    assert bench.owner.losses[0].cause == "silent"
    assert listener.lost
    bench.worker.link.resume()


async def test_other_epoch_is_another_worker(bench: Bench) -> None:
    bench.session(epoch=12345)
    await until(lambda: bench.owner.losses)
    assert bench.owner.losses[0].cause == "rejected"
    assert "new epoch" in bench.owner.losses[0].reason


async def test_wrong_deployment_token_is_reported(bench: Bench) -> None:
    bench.session(token="someone else's")
    await until(lambda: bench.owner.losses)
    assert bench.owner.losses[0].cause == "rejected"
    assert "token" in bench.owner.losses[0].reason


async def test_failed_submission_says_why(bench: Bench) -> None:
    bench.worker.mute = True
    session = await bench.up()
    _, listener = bench.submit(session)
    await until(lambda: bench.worker.jobs)
    bench.worker.fail_all(HandoffError("checksum"))
    await until(lambda: listener.events)
    event = listener.events[0]
    assert (event.kind, event.code) == (SlotEvent.KIND_FAILED, "handoff_failed")
    assert (event.message, event.retryable) == ("checksum", True)


async def test_close_lets_cancels_leave(bench: Bench) -> None:
    bench.worker.mute = True
    session = await bench.up()
    slot, _ = bench.submit(session)
    await until(lambda: bench.worker.jobs)
    session.cancel(slot)
    await session.close()
    assert len(bench.worker.cancelled) == 1
    assert "gone" not in bench.owner.said


async def test_what_is_made_of_a_report_costs_no_worker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await bench.up()
    monkeypatch.setattr(bench.owner, "on_load", lambda *_: 1 / 0)
    _, listener = bench.submit(session, max_tokens=3)
    session.on_frame(session_pb2.Frame(load=session_pb2.Load(sequence_number=10**6)))
    await until(lambda: len(listener.rows) == 3)
    assert session.is_up and "gone" not in bench.owner.said


async def test_malformed_frame_costs_that_worker_only(bench: Bench) -> None:
    session = await bench.up()
    _, listener = bench.submit(session, max_tokens=100_000)
    frame = session_pb2.Frame(slot=[1, 1], choice=[0])
    with pytest.raises(ValueError):
        session.on_frame(frame)
    session.drop(Loss("error", "malformed"))
    assert listener.lost
    session.drop(Loss("error", "again"))
    assert bench.owner.said.count("gone") == 1


async def test_a_session_that_cannot_send_says_so_and_begins_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frames that still come would hide that nothing is ever placed."""
    session = await bench.up()
    take, failures = Outbox.take, []

    def fail_once(self: Outbox, slots: Any) -> session_pb2.SessionRequest:
        if not failures:
            failures.append("once")
            raise ZeroDivisionError("this is a bug")
        return take(self, slots)

    monkeypatch.setattr(Outbox, "take", fail_once)
    _, listener = bench.submit(session, seed=3, max_tokens=2)
    await until(lambda: len(listener.rows) == 2)
    assert bench.owner.said == ["up", "down", "up"]
