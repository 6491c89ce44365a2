"""Workers are found in the store and live as long as their streams."""

from __future__ import annotations

import pytest

from baton.gateway.workers import fleet as fleet_module
from baton.v1 import common_pb2
from fakes.token_plane import TokenPlane
from fakes.worker import FakeWorker, tokens_of


async def test_worker_in_the_store_becomes_ready() -> None:
    async with TokenPlane(FakeWorker("a"), FakeWorker("b", "decode")) as plane:
        one, two = plane.fleet.workers()
        assert (one["id"], one["role"], one["state"]) == ("a", "any", "ready")
        assert (two["id"], two["role"]) == ("b", "decode")
        assert {"pid", "node", "epoch", "model", "load", "digest", "transport", "address"} <= set(
            one
        )
        assert plane.fleet.is_ready("fake")
        assert not plane.fleet.is_ready("other")


async def test_prefill_alone_is_not_ready() -> None:
    async with TokenPlane(FakeWorker("p", "prefill")) as plane:
        assert not plane.fleet.is_ready("fake")


async def test_expired_lease_ends_nobody_whose_stream_lives() -> None:
    async with TokenPlane(FakeWorker("a")) as plane:
        (worker,) = plane.workers
        sink, _ = plane.submit(seed=1, max_tokens=60)
        await sink.wait_tokens(1)
        assert plane.store.expire(worker.lease_key)
        assert await sink.end() is None
        again, _ = plane.submit(seed=2)
        assert await again.end() is None
        assert plane.state(worker) == "ready"


async def test_worker_without_lease_and_stream_is_forgotten() -> None:
    async with TokenPlane(FakeWorker("a")) as plane:
        (worker,) = plane.workers
        plane.store.expire(worker.lease_key)
        await worker.die()
        await plane.until(lambda: plane.state(worker) is None)
        assert len(plane.pool) == 0


async def test_deleted_lease_ends_the_worker_at_once() -> None:
    async with TokenPlane(FakeWorker("a"), resume_window_s=3600) as plane:
        (worker,) = plane.workers
        await plane.store.delete(worker.lease_key)
        await plane.until(lambda: plane.state(worker) is None)
        assert len(plane.pool) == 0


async def test_new_epoch_replaces_the_worker() -> None:
    old = FakeWorker("a")
    async with TokenPlane(old, resume_window_s=3600) as plane:
        sink, _ = plane.submit(seed=5, max_tokens=400)
        await sink.wait_tokens(1)
        new = await plane.add(FakeWorker("a"))
        assert await sink.end() is None
        assert sink.tokens[0] == tokens_of(5, 0, 400)
        assert len(plane.pool) == 1
        assert new.submits and new.submits[0].attempt == 2
        assert plane.fleet.workers()[0]["epoch"] == f"{new.lease.worker.epoch:016x}"


async def test_lost_worker_whose_lease_stays_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fleet_module, "FIRST_BACKOFF_S", 0.01)
    async with TokenPlane(FakeWorker("a"), resume_window_s=0.1) as plane:
        (worker,) = plane.workers
        worker.link.hold()
        worker.link.cut()
        await plane.until(lambda: plane.state(worker) == "lost")
        assert "no answer" in plane.fleet.workers()[0]["reason"]
        worker.link.resume()
        await plane.until(lambda: plane.state(worker) == "ready")
        sink, _ = plane.submit(seed=1)
        assert await sink.end() is None


async def test_worker_whose_stream_broke_gets_nothing_new() -> None:
    async with TokenPlane(FakeWorker("a"), resume_window_s=3600) as plane:
        (worker,) = plane.workers
        worker.link.hold()
        worker.link.cut()
        await plane.until(lambda: plane.state(worker) == "resuming")
        sink, _ = plane.submit(seed=1)
        assert plane.num_waiting == 1
        worker.link.resume()
        assert await sink.end() is None


async def test_draining_worker_gets_nothing_new_and_finishes_what_it_has() -> None:
    async with TokenPlane(FakeWorker("a"), FakeWorker("b")) as plane:
        sinks = [plane.submit(seed=s, max_tokens=100)[0] for s in range(4)]
        a, b = plane.workers
        await plane.until(lambda: a.submits and b.submits)
        a.draining = True
        await plane.until(lambda: plane.state(a) == "draining")
        had = len(a.submits)
        sinks += [plane.submit(seed=s)[0] for s in range(4, 8)]
        for sink in sinks:
            assert await sink.end() is None
        assert len(a.submits) == had


async def test_different_digests_are_shown_with_the_reason() -> None:
    prefill = FakeWorker("p", "prefill", digest="x")
    async with TokenPlane(prefill, FakeWorker("d", "decode", digest="y")) as plane:
        d, p = plane.fleet.workers()
        assert "no decode worker has its KV digest" in p["reason"]
        assert "no prefill worker has its KV digest" in d["reason"]
        sink, _ = plane.submit(seed=1)
        assert await sink.end() is None
        assert prefill.submits == []
        await plane.add(FakeWorker("d2", "decode", digest="x"))
        reasons = {w["id"]: w["reason"] for w in plane.fleet.workers()}
        assert reasons["p"] == reasons["d2"] == ""


async def test_worker_of_another_protocol_is_shown_and_not_used() -> None:
    async with TokenPlane() as plane:
        worker = FakeWorker("a")
        worker.lease.protocol_min = worker.lease.protocol_max = 7
        worker.lease.worker.address = "127.0.0.1:1"
        await plane.register(worker)
        await plane.until(plane.fleet.workers)
        (shown,) = plane.fleet.workers()
        assert shown["state"] == "lost"
        assert "speaks protocols 7 to 7" in shown["reason"]
        assert len(plane.pool) == 0


async def test_nonsense_in_the_store_hides_nobody() -> None:
    async with TokenPlane() as plane:
        await plane.store.put("workers/bad", b"\xff\xff\xff")
        await plane.store.put("workers/odd", common_pb2.WorkerLease(model="m").SerializeToString())
        await plane.add(FakeWorker("good"))
        assert plane.up() == ["good"]


async def test_gauges_follow_the_reports() -> None:
    async with TokenPlane(FakeWorker("a"), FakeWorker("b", "prefill")) as plane:

        def value(line: str) -> bool:
            return line in plane.metrics.render().decode()

        await plane.until(lambda: value('baton_workers{role="any",state="ready"} 1.0'))
        await plane.until(lambda: value('baton_kv_blocks{state="free",worker="a"} 100000.0'))
        await plane.store.delete("workers/a")
        await plane.until(lambda: plane.state(plane.workers[0]) is None)
        assert not value('baton_kv_blocks{state="free",worker="a"}')
        assert value('baton_worker_losses_total{reason="left",role="any"} 1.0')


async def test_outage_of_the_store_shows_in_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "STORE_CHECK_S", 0.01)
    async with TokenPlane() as plane:
        for is_down in (False, True, False):
            plane.store.is_down = is_down
            line = f"baton_store_up {float(not is_down)}"
            await plane.until(lambda line=line: line in plane.metrics.render().decode())


async def test_followers_of_a_worker_hear_of_each_stream_and_of_its_end() -> None:
    old = FakeWorker("a")
    plane = TokenPlane(old, resume_window_s=3600)
    heard: list[tuple[str, int]] = []
    epochs: list[int] = []

    def up(row: int, lease: common_pb2.WorkerLease) -> None:
        heard.append(("up", row))
        epochs.append(lease.worker.epoch)

    plane.fleet.on_worker_up = up
    # Told while the row still is the worker's.
    plane.fleet.on_worker_gone = lambda row: heard.append((plane.pool.worker_id(row), row))
    async with plane:
        assert heard == [("up", 0)]
        old.link.cut()
        await plane.until(lambda: len(heard) == 2)
        new = FakeWorker("a")
        await new.start()
        await plane.register(new)
        await plane.until(lambda: len(heard) == 4)
        assert heard == [("up", 0), ("up", 0), ("a", 0), ("up", 0)]
        assert epochs == [w.lease.worker.epoch for w in (old, old, new)]
        await plane.store.delete(new.lease_key)
        await plane.until(lambda: heard[-1] == ("a", 0))
        await new.stop()
