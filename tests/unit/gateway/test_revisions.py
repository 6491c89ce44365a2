"""A rollout over real streams: requests stay in a revision, drains cross where they may."""

from __future__ import annotations

from fakes.token_plane import TokenPlane
from fakes.worker import FakeWorker, Network, tokens_of

TOKENS = 300


def worker(name: str, revision: str, digest: str, network: Network) -> FakeWorker:
    return FakeWorker(name, revision=revision, digest=digest, network=network, step_s=0.002)


async def test_new_requests_are_split_and_each_is_served_where_it_went() -> None:
    network = Network()
    old = [worker(f"old{i}", "r1", "x", network) for i in range(3)]
    new = worker("new", "r2", "y", network)
    async with TokenPlane(*old, new) as plane:
        plane.pool.set_weights({"r1": 1, "r2": 1})
        sinks = [plane.submit(seed=seed, max_tokens=4)[0] for seed in range(100)]
        for seed, sink in enumerate(sinks):
            assert await sink.end() is None
            assert sink.tokens == {0: tokens_of(seed, 0, 4)}
        assert 30 <= len(new.submits) <= 70
        assert len(new.submits) + sum(len(one.submits) for one in old) == 100


async def test_an_attempt_that_fails_goes_on_in_its_revision() -> None:
    network = Network()
    old = [worker(f"old{i}", "r1", "x", network) for i in range(2)]
    new = worker("new", "r2", "y", network)
    async with TokenPlane(*old, new) as plane:
        plane.pool.set_weights({"r1": 1})
        sink, _ = plane.submit(seed=1, max_tokens=TOKENS)
        await sink.wait_tokens(5)
        plane.pool.set_weights({"r2": 1})
        first = next(one for one in old if one.jobs)
        await first.die()
        assert await sink.end() is None
        assert sink.tokens == {0: tokens_of(1, 0, TOKENS)}
        assert not new.submits
        (replay,) = next(one for one in old if one is not first).submits
        assert replay.attempt == 2


async def test_a_request_whose_revision_is_gone_goes_on_in_another() -> None:
    network = Network()
    old, new = worker("old", "r1", "x", network), worker("new", "r2", "y", network)
    async with TokenPlane(old, new) as plane:
        plane.pool.set_weights({"r1": 1})
        sink, _ = plane.submit(seed=1, max_tokens=TOKENS)
        await sink.wait_tokens(5)
        await old.die()
        assert await sink.end() is None
        assert sink.tokens == {0: tokens_of(1, 0, TOKENS)}
        assert len(new.submits) == 1


async def test_a_drain_moves_to_the_new_revision_where_the_digest_is_the_same() -> None:
    network = Network()
    old, new = worker("old", "r1", "same", network), worker("new", "r2", "same", network)
    async with TokenPlane(old, new) as plane:
        plane.pool.set_weights({"r1": 1})
        sinks = [plane.submit(seed=seed, max_tokens=TOKENS)[0] for seed in range(4)]
        for sink in sinks:
            await sink.wait_tokens(5)
        assert len(old.jobs) == 4
        await plane.fleet.drain("old", 0.0, "rollout")
        await plane.until(lambda: not old.jobs)
        for seed, sink in enumerate(sinks):
            assert await sink.end() is None
            assert sink.tokens == {0: tokens_of(seed, 0, TOKENS)}
        assert {submit.attempt for submit in new.submits} == {1}, "moved, not replayed"


async def test_a_drain_ends_what_no_other_digest_could_take_over() -> None:
    network = Network()
    old, new = worker("old", "r1", "x", network), worker("new", "r2", "y", network)
    async with TokenPlane(old, new) as plane:
        plane.pool.set_weights({"r1": 1})
        sink, _ = plane.submit(seed=1, max_tokens=TOKENS)
        await sink.wait_tokens(5)
        await plane.fleet.drain("old", 0.0, "rollout")
        await plane.until(lambda: plane.state(old) == "draining")
        after, _ = plane.submit(seed=2, max_tokens=4)
        assert await after.end() is None
        assert len(new.submits) == 1
        assert await sink.end() is None
        assert sink.tokens == {0: tokens_of(1, 0, TOKENS)} and len(old.submits) == 1
