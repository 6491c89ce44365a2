"""The token plane under load and faults: real streams, fake engines, one event loop."""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from baton.gateway.dispatch import Dispatcher
from baton.gateway.workers.fleet import Fleet
from baton.router.policy.registry import policy_named
from baton.router.pool import Pool
from baton.store.embedded import EmbeddedStore
from baton.store.embedded_server import EmbeddedStoreServer
from baton.telemetry import rpc
from baton.telemetry.metrics import Metrics
from fakes.sink import RecordingSink
from fakes.token_plane import TokenPlane, make_request
from fakes.worker import TOKEN, FakeWorker, Network, tokens_of

STREAMS = 1000
TOKENS = 8


def split(prefill: int, decode: int, step_s: float = 0.002) -> list[FakeWorker]:
    network = Network()
    return [
        FakeWorker(f"{role}-{i}", role, network=network, step_s=step_s)
        for role, count in (("prefill", prefill), ("decode", decode))
        for i in range(count)
    ]


def of_role(plane: TokenPlane, role: str) -> list[FakeWorker]:
    return [worker for worker in plane.workers if worker.worker_id.startswith(role)]


def sink_of(seed: int) -> RecordingSink:
    """Every other one takes its tokens in runs, as answers that are not streamed do."""
    return RecordingSink(stream_interval=1000 if seed % 2 else 1)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def settle(plane: TokenPlane) -> None:
    """Until workers, too, have let go of everything."""
    await plane.until(lambda: all(not w.jobs and w.sessions.num_slots == 0 for w in plane.workers))
    plane.assert_nothing_left()


async def test_a_thousand_streams_leave_nothing_behind() -> None:
    async with TokenPlane(*split(1, 2, step_s=0.05), max_queue=STREAMS) as plane:
        warm, _ = plane.submit(seed=1)
        assert await warm.end() is None
        await settle(plane)
        tasks, files = len(asyncio.all_tasks()), open_files()
        sinks = [plane.submit(seed=s, max_tokens=TOKENS)[0] for s in range(STREAMS)]
        assert len(asyncio.all_tasks()) <= tasks + 8, "a request costs no task"
        for seed, sink in enumerate(sinks):
            assert await sink.end() is None
            assert sink.tokens == {0: tokens_of(seed, 0, TOKENS)}
        await settle(plane)
        assert len(asyncio.all_tasks()) <= tasks
        assert open_files() <= files


async def test_a_thousand_clients_that_leave_free_their_workers() -> None:
    async with TokenPlane(*split(1, 2, step_s=0.05), max_queue=STREAMS) as plane:
        submitted = [plane.submit(seed=s, max_tokens=100_000) for s in range(STREAMS)]
        await submitted[-1][0].wait_tokens(2)
        for sink, ticket in submitted:
            ticket.cancel("the client went away")
            assert len(sink.ends) == 1
        await settle(plane)


async def test_broken_streams_give_no_gap_and_no_repeat() -> None:
    async with TokenPlane(*split(2, 2)) as plane:
        sinks = [
            plane.submit(sink=sink_of(s), seed=s, n=1 + s % 3, max_tokens=150)[0] for s in range(40)
        ]
        rng = random.Random(5)
        for tokens in (5, 30, 60, 90):
            await sinks[0].wait_tokens(tokens)
            rng.choice(plane.workers).link.cut()
        for seed, sink in enumerate(sinks):
            assert await sink.end() is None
            assert sink.tokens == {c: tokens_of(seed, c, 150) for c in range(1 + seed % 3)}
        await settle(plane)


@pytest.mark.parametrize("victim", ["prefill-0", "decode-0"])
@pytest.mark.parametrize("at_token", [0, 1, 40])
async def test_requests_of_a_killed_worker_continue_elsewhere(victim: str, at_token: int) -> None:
    async with TokenPlane(*split(2, 2), resume_window_s=3600) as plane:
        sinks = [
            plane.submit(sink=sink_of(s), seed=s, n=1 + s // 2 % 2, max_tokens=120)[0]
            for s in range(30)
        ]
        worker = next(w for w in plane.workers if w.worker_id == victim)
        await plane.until(lambda: worker.submits)
        await sinks[0].wait_tokens(at_token)
        await worker.die()
        for seed, sink in enumerate(sinks):
            assert await sink.end() is None
            assert sink.tokens == {c: tokens_of(seed, c, 120) for c in range(1 + seed // 2 % 2)}
        plane.workers.remove(worker)
        await settle(plane)


async def test_tokens_that_were_held_by_a_killed_worker_are_made_again() -> None:
    async with TokenPlane(*split(1, 1), resume_window_s=3600) as plane:
        decode = of_role(plane, "decode")[0]
        sink, _ = plane.submit(sink=RecordingSink(stream_interval=10_000), seed=1, max_tokens=600)
        await sink.wait_tokens(1)
        await plane.until(
            lambda: any(job.next[0] > len(sink.tokens[0]) + 9 for job in decode.jobs.values())
        )
        await decode.die()
        await plane.add(FakeWorker("decode-0", "decode", network=decode.network))
        assert await sink.end() is None
        assert sink.tokens == {0: tokens_of(1, 0, 600)}
        assert plane.metrics.registry.get_sample_value("baton_attempts_total") == 2


async def test_requests_survive_the_whole_prefill_pool() -> None:
    async with TokenPlane(*split(1, 1), resume_window_s=3600) as plane:
        prefill = of_role(plane, "prefill")[0]
        prefill.mute = True
        sink, _ = plane.submit(seed=1)
        await plane.until(lambda: prefill.jobs)
        await prefill.die()
        assert await sink.end() is None
        after, _ = plane.submit(seed=2)
        assert await after.end() is None
        assert after.tokens == {0: tokens_of(2, 0, 8)}


async def test_requests_wait_for_a_restarted_decode_worker() -> None:
    async with TokenPlane(*split(1, 1), resume_window_s=3600) as plane:
        decode = of_role(plane, "decode")[0]
        sink, _ = plane.submit(seed=1, max_tokens=400)
        await sink.wait_tokens(10)
        await decode.die()
        await plane.add(FakeWorker("decode-0", "decode", network=decode.network))
        assert await sink.end() is None
        assert sink.tokens == {0: tokens_of(1, 0, 400)}


async def test_random_faults_never_break_an_answer() -> None:
    """Cuts, deaths and failures at random moments; every answer is complete and exact."""
    rng = random.Random(11)
    async with TokenPlane(*split(2, 3), max_attempts=10, resume_window_s=3600) as plane:
        network = plane.workers[0].network
        sinks = []
        for round_number in range(12):
            sinks += [
                plane.submit(
                    sink=sink_of(i // 2),
                    seed=len(sinks) + i,
                    n=1 + i % 2,
                    max_tokens=rng.randrange(1, 120),
                )
                for i in range(10)
            ]
            await asyncio.sleep(rng.random() * 0.05)
            fault = rng.choice(["cut", "die", "cut"])
            worker = rng.choice(plane.workers)
            if fault == "cut":
                worker.link.cut()
            else:
                await worker.die()
                plane.workers.remove(worker)
                role = worker.worker_id.split("-")[0]
                name = f"{role}-r{round_number}"
                await plane.add(FakeWorker(name, role, network=network, step_s=0.002))
        for sink, running in sinks:
            assert await sink.end() is None
            request = running.request
            count = request.sampling.max_tokens
            assert sink.tokens == {c: tokens_of(request.seed, c, count) for c in request.outputs}
        await settle(plane)


async def test_session_gone_cancels_its_requests_on_the_worker() -> None:
    worker = FakeWorker("a", session_grace_s=0.05)
    async with TokenPlane(worker, resume_window_s=3600) as plane:
        sink, _ = plane.submit(max_tokens=100_000)
        await sink.wait_tokens(1)
        worker.link.hold()
        worker.link.cut()
        await plane.until(lambda: worker.cancelled)
        assert not worker.jobs
        worker.link.resume()
        # The session is new to the worker, so the gateway places the request again.
        await plane.until(lambda: len(worker.submits) == 2)
        assert list(worker.submits[1].choices[0].output_so_far) == tokens_of(
            1, 0, len(worker.submits[1].choices[0].output_so_far)
        )


async def test_discovery_through_the_embedded_store() -> None:
    """The same against a real store: found, kept while the store is away, gone when deleted."""
    server = rpc.server(TOKEN)
    service = EmbeddedStoreServer()
    service.add_to_server(server)
    port = rpc.listen(server, "127.0.0.1", 0)
    await server.start()
    store = EmbeddedStore(f"grpc://127.0.0.1:{port}", TOKEN, "test")
    async with TokenPlane() as plane:
        metrics, pool = Metrics(), Pool()
        fleet = Fleet(store, pool, TOKEN, plane.settings, metrics, tokenizer="")
        dispatcher = Dispatcher(
            fleet, policy_named("round_robin"), plane.settings, metrics, ["fake"]
        )
        fleet.start()
        worker = await FakeWorker("a").start()
        await store.put(worker.lease_key, worker.lease.SerializeToString(), ttl_s=30)
        await plane.until(lambda: fleet.is_ready("fake"))
        await server.stop(None)
        sink = RecordingSink()
        dispatcher.submit(make_request(seed=3), sink)
        assert await sink.end() is None
        await dispatcher.finish(0)
        await fleet.close()
        await worker.die()
    await store.close()
    service.close()
