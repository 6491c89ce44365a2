"""A pool that is being rolled fails nothing: requests wait for the next worker."""

from __future__ import annotations

import asyncio

import pytest

from baton.core.errors import DeadlineExceededError
from fakes.token_plane import TokenPlane
from fakes.worker import FakeWorker, Network, tokens_of

NUM_TOKENS = 12


async def leave(plane: TokenPlane, worker: FakeWorker) -> None:
    """As a worker does at the end of its drain."""
    await plane.store.delete(worker.lease_key)
    await worker.die()


@pytest.mark.parametrize("ends", ["draining", "left", "died"])
async def test_requests_wait_for_the_replacement_of_the_last_worker(ends: str) -> None:
    worker = FakeWorker("old")
    async with TokenPlane(worker, resume_window_s=0.05) as plane:
        if ends == "draining":
            worker.draining = True
            await plane.until(lambda: plane.state(worker) == "draining")
        elif ends == "left":
            await leave(plane, worker)
            await plane.until(lambda: plane.state(worker) is None)
        else:
            await worker.die()
            await plane.until(lambda: plane.state(worker) != "ready")
        sinks = [plane.submit(seed=seed, max_tokens=NUM_TOKENS)[0] for seed in range(5)]
        await asyncio.sleep(0.05)
        assert plane.num_waiting == 5 and not any(sink.ends for sink in sinks)
        num_before = len(worker.submits)
        await plane.add(FakeWorker("new"))
        for seed, sink in enumerate(sinks):
            assert await sink.end() is None
            assert sink.tokens[0] == tokens_of(seed, 0, NUM_TOKENS)
        assert len(worker.submits) == num_before, "a worker that drains got new work"
        plane.assert_nothing_left()


async def test_a_decode_pool_may_be_gone_for_a_while() -> None:
    network = Network()
    prefill = FakeWorker("p", "prefill", network=network)
    old = FakeWorker("d-old", "decode", network=network)
    async with TokenPlane(prefill, old) as plane:
        await leave(plane, old)
        await plane.until(lambda: plane.state(old) is None)
        sink, running = plane.submit(max_tokens=NUM_TOKENS)
        await asyncio.sleep(0.05)
        assert running.is_waiting and not prefill.submits
        new = await plane.add(FakeWorker("d-new", "decode", network=network))
        assert await sink.end() is None
        assert len(new.submits) == 1


async def test_rolling_one_worker_after_the_other_breaks_no_stream() -> None:
    workers = [FakeWorker(f"old-{i}", step_s=0.002) for i in range(3)]
    async with TokenPlane(*workers, max_moves_per_worker=0) as plane:
        sinks = [plane.submit(seed=seed, max_tokens=200)[0] for seed in range(12)]
        for i, worker in enumerate(workers):
            await plane.add(FakeWorker(f"new-{i}", step_s=0.0005))
            worker.draining = True
            await plane.until(lambda w=worker: plane.state(w) == "draining")
            await leave(plane, worker)
        for seed, sink in enumerate(sinks):
            assert await sink.end() is None
            assert sink.tokens[0] == tokens_of(seed, 0, 200)
        plane.assert_nothing_left()


async def test_workers_that_leave_do_not_use_up_a_requests_attempts() -> None:
    async with TokenPlane(max_attempts=2) as plane:
        sink, _ = plane.submit(seed=3)
        for i in range(5):
            worker = FakeWorker(f"w{i}")
            worker.mute = True
            await plane.add(worker)
            await plane.until(lambda w=worker: w.submits)
            await leave(plane, worker)
            await plane.until(lambda w=worker: plane.state(w) is None)
        await plane.add(FakeWorker("last"))
        assert await sink.end() is None
        assert sink.tokens[0] == tokens_of(3, 0, 8)


async def test_without_a_replacement_the_deadline_ends_it() -> None:
    worker = FakeWorker("old")
    async with TokenPlane(worker) as plane:
        worker.draining = True
        await plane.until(lambda: plane.state(worker) == "draining")
        sink, _ = plane.submit(deadline_s=0.1)
        error = await sink.end()
        assert isinstance(error, DeadlineExceededError) and "1 draining" in error.message
