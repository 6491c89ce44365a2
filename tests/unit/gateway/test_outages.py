"""What callers and people are told while workers or the store are away."""

from __future__ import annotations

import logging

import pytest

from baton.core.errors import DeadlineExceededError
from baton.gateway.workers import fleet as fleet_module
from fakes.token_plane import TokenPlane
from fakes.worker import FakeWorker


async def _reason(plane: TokenPlane) -> str:
    """The error of a request that nobody takes before its deadline."""
    sink, _ = plane.submit(deadline_s=0.05)
    error = await sink.end()
    assert isinstance(error, DeadlineExceededError)
    assert "fewer tokens" not in error.message
    assert "waited for a worker" in error.message and "baton workers" in error.message
    plane.assert_nothing_left()
    return error.message


async def test_a_request_without_a_decode_worker_says_so() -> None:
    decode = FakeWorker("d", "decode")
    async with TokenPlane(FakeWorker("p", "prefill"), decode) as plane:
        await plane.store.delete(decode.lease_key)
        await plane.until(lambda: plane.state(decode) is None)
        assert "no decode worker for model 'fake'" in await _reason(plane)


async def test_a_request_whose_workers_all_left_says_so() -> None:
    worker = FakeWorker("a")
    async with TokenPlane(worker) as plane:
        await plane.store.delete(worker.lease_key)
        await plane.until(lambda: plane.state(worker) is None)
        assert "no worker for model 'fake' is alive" in await _reason(plane)


async def test_a_request_whose_workers_drain_says_so() -> None:
    worker = FakeWorker("a")
    async with TokenPlane(worker) as plane:
        worker.draining = True
        await plane.until(lambda: plane.state(worker) == "draining")
        assert "1 draining" in await _reason(plane)


async def test_a_request_that_was_not_its_turn_says_so() -> None:
    async with TokenPlane(FakeWorker("a", max_running=1)) as plane:
        plane.workers[0].mute = True
        plane.submit()
        await plane.until(lambda: not plane.pool.columns.queue_room.any())
        sink, _ = plane.submit(deadline_s=0.05)
        error = await sink.end()
        assert error is not None and "is busy" in error.message


async def test_without_the_store_the_reason_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "STORE_CHECK_S", 0.01)
    async with TokenPlane() as plane:
        plane.store.is_down = True
        await plane.until(lambda: "the store" in plane.fleet.shortage("fake"))
        assert "has registered, nor can one be found: the store" in await _reason(plane)
        plane.store.is_down = False
        await plane.until(lambda: "the store" not in plane.fleet.shortage("fake"))


async def test_a_lost_worker_is_told_once_however_often_it_is_tried(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fleet_module, "FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr(fleet_module, "MAX_BACKOFF_S", 0.001)
    caplog.set_level(logging.WARNING, "baton.gateway.workers.fleet")
    tries = 0
    connect = fleet_module.Fleet._connect

    def counted(*args: fleet_module.Known) -> None:
        nonlocal tries
        tries += 1
        connect(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(fleet_module.Fleet, "_connect", counted)

    def num_told() -> int:
        return sum("worker_lost" in record.getMessage() for record in caplog.records)

    worker = FakeWorker("a")
    async with TokenPlane(worker, resume_window_s=0.05) as plane:
        for life in (1, 2):
            worker.link.hold()
            worker.link.cut()
            before = tries
            await plane.until(lambda before=before: tries >= before + 3)
            assert num_told() == life
            worker.link.resume()
            await plane.until(lambda: plane.state(worker) == "ready")
