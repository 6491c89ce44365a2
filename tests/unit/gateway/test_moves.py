"""Live moves over real token-plane streams, against fake workers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from baton.core.errors import DeadlineExceededError, WorkerLostError
from baton.gateway import moves
from fakes.sink import RecordingSink
from fakes.token_plane import TokenPlane, make_request
from fakes.worker import FakeWorker, Network, Side, tokens_of

TOKENS = 400


def decoders(*names: str, role: str = "any", **faults: Any) -> list[FakeWorker]:
    network = Network()
    return [FakeWorker(name, role, network=network, step_s=0.002, **faults) for name in names]


async def started(
    plane: TokenPlane, count: int = 1, tokens: int = 5, stream_interval: int = 1, **kw: Any
) -> list[RecordingSink]:
    """Requests that are all being decoded; with an interval, some of their tokens are held back."""
    sinks = [RecordingSink(stream_interval=stream_interval) for _ in range(count)]
    for seed, sink in enumerate(sinks):
        plane.submit(sink=sink, seed=seed, max_tokens=TOKENS, **kw)
    for sink in sinks:
        await sink.wait_tokens(tokens if stream_interval == 1 else 1)
    return sinks


async def assert_complete(sinks: list[RecordingSink], n: int = 1) -> None:
    for seed, sink in enumerate(sinks):
        assert await sink.end() is None
        assert sink.tokens == {c: tokens_of(seed, c, TOKENS) for c in range(n)}


def busy(plane: TokenPlane) -> FakeWorker:
    return next(w for w in plane.workers if w.jobs)


def counted(plane: TokenPlane, name: str, **labels: str) -> float:
    value = plane.metrics.registry.get_sample_value(f"baton_{name}_total", labels)
    return 0.0 if value is None else value


@pytest.mark.parametrize("interval", [1, 1000])
async def test_drained_worker_empties_inside_the_attempts(interval: int) -> None:
    async with TokenPlane(*decoders("a", "b")) as plane:
        sinks = await started(plane, 12, stream_interval=interval)
        a, b = plane.workers
        assert a.jobs and b.jobs
        num_moved = len(a.jobs)
        a.draining = True
        drained = {"reason": "drain", "outcome": "moved"}
        await plane.until(lambda: counted(plane, "moves", **drained) == num_moved)
        await plane.until(lambda: not a.jobs)
        await assert_complete(sinks)
        assert {s.attempt for w in plane.workers for s in w.submits} == {1}
        assert counted(plane, "attempts") == 12, "nothing was replayed"
        plane.assert_nothing_left()


async def test_move_says_what_the_contract_asks_for() -> None:
    async with TokenPlane(*decoders("a", "b")) as plane:
        (sink,) = await started(plane)
        origin = busy(plane)
        heir = next(w for w in plane.workers if w is not origin)
        origin.draining = True
        await plane.until(lambda: heir.submits and origin.migrates)
        (submit,), (migrate,) = heir.submits, origin.migrates
        output = list(submit.choices[0].output_so_far)
        assert output == tokens_of(0, 0, len(output)) and output
        assert migrate.next_position == len(output)
        assert migrate.handoff_id == submit.handoff.handoff_id and len(migrate.handoff_id) == 16
        assert migrate.slot == origin.submits[0].slot
        assert migrate.peer == heir.lease.worker
        assert submit.handoff.peer == origin.lease.worker
        assert submit.handoff.side == Side.SIDE_TARGET
        assert submit.attempt == origin.submits[0].attempt
        await assert_complete([sink])


async def test_sequences_that_were_handed_over_move_too() -> None:
    network = Network()
    names = [("p", "prefill"), ("d0", "decode"), ("d1", "decode")]
    workers = [FakeWorker(n, role, network=network, step_s=0.002) for n, role in names]
    async with TokenPlane(*workers) as plane:
        sinks = await started(plane, 6)
        workers[1].draining = True
        await plane.until(lambda: not workers[1].jobs)
        await assert_complete(sinks)
        assert counted(plane, "attempts") == 6
        plane.assert_nothing_left()


async def test_nothing_new_comes_to_a_worker_that_drains_until_it_no_longer_does() -> None:
    async with TokenPlane(*decoders("a", "b")) as plane:
        a, b = plane.workers
        a.draining = True
        await plane.until(lambda: plane.state(a) == "draining")
        sinks = await started(plane, 4)
        assert len(b.submits) == 4 and not a.submits
        a.draining = False
        await plane.until(lambda: plane.state(a) == "ready")
        plane.submit(seed=9)
        await plane.until(lambda: a.submits)
        await assert_complete(sinks)


async def test_last_worker_keeps_what_runs_and_new_requests_wait() -> None:
    async with TokenPlane(*decoders("a")) as plane:
        sinks = await started(plane, 2)
        (a,) = plane.workers
        a.draining = True
        await plane.until(lambda: plane.state(a) == "draining")
        waits, _ = plane.submit(seed=7)
        too_late, _ = plane.submit(deadline_s=0.05)
        assert isinstance(await too_late.end(), DeadlineExceededError)
        await assert_complete(sinks)
        assert not waits.ends and not waits.tokens
        a.draining = False
        assert await waits.end() is None


async def test_choices_that_share_a_submission_stay() -> None:
    async with TokenPlane(*decoders("a", "b")) as plane:
        (sink,) = await started(plane, n=2)
        origin = busy(plane)
        origin.draining = True
        await assert_complete([sink], n=2)
        assert not origin.migrates


async def test_refused_moves_are_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "FIRST_BACKOFF_S", 0.02)
    async with TokenPlane(*decoders("a", "b")) as plane:
        (sink,) = await started(plane)
        origin = busy(plane)
        heir = next(w for w in plane.workers if w is not origin)
        heir.refuse_moves = True
        origin.draining = True
        await plane.until(lambda: len(origin.migrates) == 2)
        heir.refuse_moves = False
        await plane.until(lambda: not origin.jobs)
        await assert_complete([sink])
        ids = [m.handoff_id for m in origin.migrates]
        assert len(set(ids)) == len(ids)
        assert counted(plane, "attempts") == 1
        plane.assert_nothing_left()


async def test_heir_that_dies_before_it_adopted_costs_nothing() -> None:
    workers = decoders("a", "b", copy_steps=10_000)
    async with TokenPlane(*workers, resume_window_s=3600) as plane:
        (sink,) = await started(plane)
        origin = busy(plane)
        heir = next(w for w in plane.workers if w is not origin)
        origin.draining = True
        await plane.until(lambda: heir.jobs)
        await heir.die()
        await assert_complete([sink])
        assert counted(plane, "attempts") == 1
        assert counted(plane, "moves", reason="drain", outcome="failed") == 1
        plane.assert_nothing_left()


async def test_who_moves_dies_before_the_heir_adopted() -> None:
    workers = decoders("a", "b", copy_steps=10_000)
    async with TokenPlane(*workers, resume_window_s=3600) as plane:
        (sink,) = await started(plane)
        origin = busy(plane)
        heir = next(w for w in plane.workers if w is not origin)
        origin.draining = True
        await plane.until(lambda: heir.jobs)
        await origin.die()
        await assert_complete([sink])
        assert [s.attempt for s in heir.submits] == [1, 2]
        assert len(heir.cancelled) == 1
        plane.assert_nothing_left()


async def test_who_moved_dies_once_the_heir_has_adopted() -> None:
    async with TokenPlane(*decoders("a", "b"), resume_window_s=3600) as plane:
        (sink,) = await started(plane)
        origin = busy(plane)
        heir = next(w for w in plane.workers if w is not origin)
        origin.link.hold()
        origin.draining = True
        # Nothing of it arrives from here on, its own word on the move included.
        origin.link.resume()
        moved = {"reason": "drain", "outcome": "moved"}
        await plane.until(lambda: counted(plane, "moves", **moved) == 1)
        # Tokens of the heir: those of who moved are all there.
        await sink.wait_tokens(len(sink.tokens[0]) + 20)
        await origin.die()
        await assert_complete([sink])
        assert [s.attempt for s in heir.submits] == [1]
        plane.assert_nothing_left()


@pytest.mark.parametrize("interval", [1, 1000])
async def test_last_rows_that_died_with_who_moved_are_made_again(interval: int) -> None:
    async with TokenPlane(*decoders("a", "b"), resume_window_s=3600) as plane:
        (sink,) = await started(plane, stream_interval=interval)
        origin = busy(plane)
        heir = next(w for w in plane.workers if w is not origin)
        origin.keep_last_rows = True
        origin.draining = True
        await assert_complete([sink])
        assert [s.attempt for s in heir.submits] == [1, 2]
        plane.assert_nothing_left()


@pytest.mark.parametrize("interval", [1, 1000])
async def test_streams_that_break_in_mid_move_give_no_gap_and_no_repeat(interval: int) -> None:
    async with TokenPlane(*decoders("a", "b", "c")) as plane:
        sinks = await started(plane, 9, stream_interval=interval)
        for round_number in range(4):
            worker = plane.workers[round_number % 3]
            worker.draining = True
            await asyncio.sleep(0.05)
            for other in plane.workers:
                other.link.cut()
            await asyncio.sleep(0.1)
            worker.draining = False
        await assert_complete(sinks)
        await plane.until(lambda: all(not w.sessions.num_slots for w in plane.workers))
        plane.assert_nothing_left()


async def test_cancel_in_mid_move_reaches_both() -> None:
    async with TokenPlane(*decoders("a", "b", copy_steps=10_000)) as plane:
        sink = RecordingSink()
        ticket = plane.dispatcher.submit(make_request(max_tokens=100_000), sink)
        await sink.wait_tokens(3)
        origin = busy(plane)
        origin.draining = True
        await plane.until(lambda: all(w.jobs for w in plane.workers))
        ticket.cancel("the client went away")
        await plane.until(lambda: all(not w.jobs for w in plane.workers))
        assert counted(plane, "moves", reason="drain", outcome="ended") == 1
        plane.assert_nothing_left()


async def test_sequence_that_ends_while_it_is_copied_just_ends() -> None:
    async with TokenPlane(*decoders("a", "b", copy_steps=10_000)) as plane:
        (sink,) = await started(plane)
        busy(plane).draining = True
        await assert_complete([sink])
        await plane.until(lambda: all(not w.jobs for w in plane.workers))
        plane.assert_nothing_left()


async def test_moves_at_once_are_bounded() -> None:
    workers = decoders("a", "b", copy_steps=10_000)
    async with TokenPlane(*workers, max_moves_per_worker=2) as plane:
        sinks = await started(plane, 10)
        plane.workers[0].draining = True
        await plane.until(lambda: len(plane.workers[0].migrates) == 2)
        await asyncio.sleep(3 * moves.LOOK_S)
        assert len(plane.workers[0].migrates) == 2
        await assert_complete(sinks)


async def test_worker_short_of_blocks_gives_a_few_away_and_gets_none_back() -> None:
    async with TokenPlane(*decoders("a", "b", num_blocks=1000)) as plane:
        sinks = await started(plane, 8, prompt_tokens=600)
        a, b = plane.workers
        a.free_blocks, a.short_of_blocks = 20, True
        relieved = {"reason": "short_of_blocks", "outcome": "moved"}
        # 80 blocks are wanted, and each of them holds 38 or more; reports lag behind.
        await plane.until(lambda: counted(plane, "moves", **relieved) == len(a.migrates) > 0)
        await asyncio.sleep(2 * moves.LOOK_S)
        assert 2 <= len(a.migrates) <= 3
        a.free_blocks, a.short_of_blocks = 120, False
        b.free_blocks, b.short_of_blocks = 20, True
        await asyncio.sleep(3 * moves.LOOK_S)
        gone = {s.request_id for s in b.submits if s.handoff.handoff_id}
        assert not gone & {s.request_id for s in a.submits if s.handoff.handoff_id}
        await assert_complete(sinks)
        plane.assert_nothing_left()


async def test_prefill_worker_lost_after_its_commit_costs_no_replay() -> None:
    network = Network()
    prefill = FakeWorker("p", "prefill", network=network, step_s=0.002)
    decode = FakeWorker("d", "decode", network=network, step_s=0.002)
    async with TokenPlane(prefill, decode, resume_window_s=3600) as plane:
        decode.mute = True
        sink, _ = plane.submit(seed=0, max_tokens=TOKENS)
        await sink.wait_tokens(1)
        await prefill.die()
        await plane.until(lambda: plane.state(prefill) == "lost")
        # The commit had left before.
        decode.mute = False
        await assert_complete([sink])
        assert [s.attempt for s in decode.submits] == [1]
        plane.workers.remove(prefill)
        plane.assert_nothing_left()


async def test_target_that_says_it_got_no_commit_is_believed() -> None:
    network = Network()
    prefill = FakeWorker("p", "prefill", network=network, step_s=0.002)
    decode = FakeWorker("d", "decode", network=network, step_s=0.002)
    async with TokenPlane(prefill, decode, resume_window_s=3600) as plane:
        decode.mute = True
        sink, _ = plane.submit(seed=0, max_tokens=TOKENS)
        await sink.wait_tokens(1)
        await prefill.die()
        decode.fail_all(WorkerLostError("the source died"))
        decode.mute = False
        await assert_complete([sink])
        assert [s.attempt for s in decode.submits] == [1, 2]
        plane.workers.remove(prefill)
        plane.assert_nothing_left()


async def test_moves_are_no_handoffs_in_the_metrics() -> None:
    async with TokenPlane(*decoders("a", "b")) as plane:
        sinks = await started(plane, 2)
        origin = busy(plane)
        num_moved = len(origin.jobs)
        origin.draining = True
        moved = {"reason": "drain", "outcome": "moved"}
        await plane.until(lambda: counted(plane, "moves", **moved) == num_moved)
        await assert_complete(sinks)
        assert plane.metrics.registry.get_sample_value("baton_move_seconds_count") == num_moved
        for outcome in ("accepted", "failed", "skipped"):
            assert counted(plane, "handoffs", outcome=outcome) == 0
        counts = [
            sample
            for metric in plane.metrics.registry.collect()
            for sample in metric.samples
            if sample.name.startswith("baton_handoff") and sample.value
        ]
        assert not counts


async def test_what_cannot_be_moved_before_its_worker_goes_away_is_replayed() -> None:
    async with TokenPlane(*decoders("a", "b")) as plane:
        # Two choices are not moved.
        (sink,) = await started(plane, n=2)
        origin = busy(plane)
        heir = next(w for w in plane.workers if w is not origin)
        origin.leaving_in_ms = 200
        origin.draining = True
        await plane.until(lambda: heir.submits)
        await plane.until(lambda: not origin.jobs)
        await assert_complete([sink], n=2)
        assert not origin.migrates and counted(plane, "attempts") == 2
        plane.assert_nothing_left()


async def test_what_has_nowhere_to_go_stays_even_when_its_worker_is_to_go_away() -> None:
    async with TokenPlane(*decoders("a")) as plane:
        (sink,) = await started(plane)
        (a,) = plane.workers
        a.leaving_in_ms = 1
        a.draining = True
        await plane.until(lambda: plane.state(a) == "draining")
        await assert_complete([sink])
        assert counted(plane, "attempts") == 1
