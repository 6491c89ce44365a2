"""A gateway drains and undrains workers over the channel that it holds."""

from __future__ import annotations

import pytest

from baton.core.errors import NotFoundError, UnavailableError
from baton.gateway.workers import steering
from baton.v1 import common_pb2
from fakes.token_plane import TokenPlane
from fakes.worker import FakeWorker


async def test_a_drained_worker_gets_nothing_new_until_it_is_undrained() -> None:
    async with TokenPlane(FakeWorker("a"), FakeWorker("b")) as plane:
        one, other = plane.workers
        for _ in range(2):
            assert await plane.fleet.drain("a", 0.0, "test") == 0
        await plane.until(lambda: plane.state(one) == "draining")
        rows = {row["id"]: row["draining"] for row in plane.fleet.workers()}
        assert rows == {"a": True, "b": False}
        sink, _ = plane.submit(seed=1)
        assert await sink.end() is None
        assert not one.submits and other.submits
        for _ in range(2):
            await plane.fleet.undrain("a")
        await plane.until(lambda: plane.state(one) == "ready")


async def test_the_notice_of_a_machine_that_goes_away_reaches_the_worker() -> None:
    async with TokenPlane(FakeWorker("a")) as plane:
        (worker,) = plane.workers
        await plane.fleet.drain("a", 12.5, "spot")
        assert worker.leaving_in_ms == 12_500


async def test_a_worker_that_is_leaving_cannot_be_undrained() -> None:
    async with TokenPlane(FakeWorker("a")) as plane:
        plane.workers[0].is_leaving = True
        with pytest.raises(UnavailableError, match="worker a: the worker is leaving"):
            await plane.fleet.undrain("a")


async def test_an_unknown_worker_is_told_from_one_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steering, "TIMEOUT_S", 0.2)
    async with TokenPlane(FakeWorker("a"), resume_window_s=0.5) as plane:
        (worker,) = plane.workers
        with pytest.raises(NotFoundError, match="nobody"):
            await plane.fleet.drain("nobody", 0.0, "")
        worker.link.hold()
        with pytest.raises(UnavailableError, match="worker a does not answer") as caught:
            await plane.fleet.drain("a", 0.0, "")
        assert "127.0.0.1" not in str(caught.value)
        await worker.die()
        await plane.until(lambda: plane.state(worker) == "lost")
        with pytest.raises(UnavailableError, match="worker a does not answer"):
            await plane.fleet.undrain("a")


async def test_rows_have_the_revision() -> None:
    workers = FakeWorker("a", revision="7f3c"), FakeWorker("b")
    async with TokenPlane(*workers) as plane:
        assert [row["revision"] for row in plane.fleet.workers()] == ["7f3c", ""]


async def test_a_lease_of_a_newer_version_is_understood() -> None:
    worker = await FakeWorker("a").start()
    async with TokenPlane() as plane:
        plane.workers.append(worker)
        lease = worker.lease.SerializeToString()
        # Field 100, a string, which this version does not know; and a protocol one further.
        lease += b"\xa2\x06\x03new"
        newer = common_pb2.WorkerLease.FromString(lease)
        newer.protocol_max += 1
        assert b"new" in newer.SerializeToString()
        await plane.store.put(worker.lease_key, newer.SerializeToString())
        await plane.until(lambda: plane.state(worker) == "ready")
        sink, _ = plane.submit(seed=1)
        assert await sink.end() is None
