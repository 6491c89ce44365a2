"""What the router knows of caches and of the past, and what workers are told of its choice."""

from __future__ import annotations

import time

from baton.gateway.hints import Hint, Hints
from baton.gateway.running import Running
from baton.gateway.workers.prefix_lookup import HashScopes, PrefixLookup
from baton.gateway.workers.prompt_hashes import HashScope, PromptHashes
from baton.router.choice import Choice
from baton.router.policy.registry import policy_named
from baton.router.pool import Pool
from baton.router.prefix_index import IndexTier, PrefixIndex
from baton.v1 import common_pb2, session_pb2, worker_pb2
from fakes.token_plane import TokenPlane, make_request
from fakes.worker import MODEL, FakeWorker

SCOPE = HashScope("digest", 16)
PROMPT = 1600


def fetching_worker(name: str, role: str = "any") -> FakeWorker:
    """One whose blocks have a size, so that a fetch has a price."""
    worker = FakeWorker(name, role)
    worker.lease.groups.add(
        num_layers=1, num_kv_heads=1, k_dim=64, v_dim=64, block_size=16, dtype="float32"
    )
    return worker


class Caches:
    """An index of what the test says, in place of workers' KV events."""

    def __init__(self) -> None:
        self.index = PrefixIndex(predicted_ttl_s=60.0)
        self.scopes = HashScopes()

    def lookup(self, pool: Pool) -> PrefixLookup:
        self.pool = pool
        return PrefixLookup(self.index, self.scopes, pool, time.monotonic)

    def row(self, name: str) -> int:
        rows = self.pool.candidates(MODEL).tolist()
        return next(row for row in rows if self.pool.worker_id(row) == name)

    def follow(self, *names: str) -> None:
        for name in names:
            self.scopes.add(self.row(name), MODEL, SCOPE)

    def has(self, name: str, prompt: tuple[int, ...]) -> None:
        keys = PromptHashes(prompt).keys(SCOPE)
        self.index.store(self.row(name), IndexTier.DEVICE, keys)

    def measured(self, name: str, **fields: int) -> None:
        """A report of a worker that takes 0.1 ms for a token."""
        load = session_pb2.Load(
            queue_room=10,
            free_blocks=1000,
            prefill_tokens_per_s=10_000,
            links=[worker_pb2.PeerLink(is_up=True, bytes_per_s=10e9)],
        )
        load.MergeFrom(session_pb2.Load(**fields))
        self.pool.report(self.row(name), load)


async def finished(plane: TokenPlane, *all_running: Running) -> None:
    await plane.until(lambda: all(running.ownership.ended for running in all_running))


async def test_request_goes_where_its_prompt_is_cached() -> None:
    caches = Caches()
    workers = [FakeWorker("a"), FakeWorker("b"), FakeWorker("c")]
    async with TokenPlane(*workers, policy="kv_aware", prefixes=caches.lookup) as plane:
        caches.follow("a", "b", "c")
        request = make_request(prompt_tokens=PROMPT)
        caches.has("b", request.prompt)
        _, running = plane.submit(request)
        await finished(plane, running)
        assert [len(worker.submits) for worker in workers] == [0, 1, 0]
        assert isinstance(running.choice, Choice)
        document = running.choice.to_json()
        # One token is always computed.
        assert document["predicted"]["cached_tokens"] == PROMPT - 16
        plane.assert_nothing_left()


async def test_siblings_of_a_burst_follow_the_first() -> None:
    """Nobody has the prompt yet; who was just given it will have it first."""
    caches = Caches()
    workers = [FakeWorker("a"), FakeWorker("b"), FakeWorker("c")]
    async with TokenPlane(*workers, policy="kv_aware", prefixes=caches.lookup) as plane:
        caches.follow("a", "b", "c")
        burst = [plane.submit(prompt_tokens=PROMPT, seed=seed)[1] for seed in range(3)]
        await finished(plane, *burst)
        assert sorted(len(worker.submits) for worker in workers) == [0, 0, 3]


async def test_worker_that_computes_is_told_whom_to_fetch_from() -> None:
    caches = Caches()
    workers = [fetching_worker("a"), fetching_worker("b")]
    async with TokenPlane(*workers, policy="kv_aware", prefixes=caches.lookup) as plane:
        caches.follow("a", "b")
        request = make_request(prompt_tokens=PROMPT)
        caches.has("a", request.prompt)
        caches.measured("a", queued_prefill_tokens=30_000)
        caches.measured("b")
        _, running = plane.submit(request)
        await finished(plane, running)
        (submit,) = workers[1].submits
        assert submit.fetch_from == workers[0].lease.worker
        assert running.choice is not None and running.choice.to_json()["fetch_from"] == "a"


async def test_of_a_pair_only_the_prefill_worker_fetches() -> None:
    caches = Caches()
    workers = [
        fetching_worker("p", "prefill"),
        fetching_worker("q", "prefill"),
        fetching_worker("d", "decode"),
    ]
    network = workers[0].network
    for worker in workers:
        worker.network = network
    async with TokenPlane(*workers, policy="kv_aware", prefixes=caches.lookup) as plane:
        caches.follow("p", "q", "d")
        request = make_request(prompt_tokens=PROMPT)
        caches.has("p", request.prompt)
        caches.measured("p", queued_prefill_tokens=30_000)
        caches.measured("q")
        # So many sequences would stand still that it had better not compute.
        caches.measured("d", num_running=500)
        _, running = plane.submit(request)
        await finished(plane, running)
        (source,), (target,) = workers[1].submits, workers[2].submits
        assert source.fetch_from == workers[0].lease.worker
        assert target.fetch_from == common_pb2.WorkerRef()


async def test_answers_of_late_tell_how_long_the_next_will_be() -> None:
    async with TokenPlane(FakeWorker("a", num_blocks=1000)) as plane:
        _, first = plane.submit(max_tokens=48)
        assert not plane.pool.columns.expected_blocks.any()
        await finished(plane, first)
        _, second = plane.submit(max_tokens=500)
        assert plane.pool.columns.expected_blocks.sum() == 48 // 16
        await finished(plane, second)
        plane.assert_nothing_left()


async def test_answers_that_were_cancelled_do_not_count_as_whole_ones() -> None:
    async with TokenPlane(FakeWorker("a", num_blocks=1000)) as plane:
        _, whole = plane.submit(max_tokens=160)
        await finished(plane, whole)
        for _ in range(5):
            _, cut = plane.submit(max_tokens=500)
            await plane.until(lambda r=cut: r.ownership.num_generated > 2)
            cut.cancel("the client is gone")
        _, last = plane.submit(max_tokens=500)
        assert plane.pool.columns.expected_blocks.sum() == 160 // 16
        await finished(plane, last)


async def test_hint_goes_where_the_prompt_is_cached() -> None:
    caches = Caches()
    workers = [FakeWorker("a"), FakeWorker("b")]
    async with TokenPlane(*workers, policy="kv_aware", prefixes=caches.lookup) as plane:
        caches.follow("a", "b")
        prompt = tuple(range(1, PROMPT + 1))
        caches.has("b", prompt)
        hints = Hints(plane.fleet, policy_named("kv_aware"), caches.lookup(plane.pool), seed=1)
        for _ in range(5):
            assert [told.worker_id for told in hints.prefetch(Hint(MODEL, prompt, 2.5))] == ["b"]
