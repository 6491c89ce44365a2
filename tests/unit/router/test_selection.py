from __future__ import annotations

import random
from typing import Any

import pytest

from baton.core.errors import ConfigError
from baton.router.policy.base import Policy, RequestView
from baton.router.policy.least_loaded import LeastLoaded
from baton.router.policy.registry import policy_named
from baton.router.policy.round_robin import RoundRobin
from baton.router.pool import Pool
from baton.router.selection import Selection, book, select
from baton.v1 import common_pb2, session_pb2

ROLES = {
    "p": common_pb2.WORKER_ROLE_PREFILL,
    "d": common_pb2.WORKER_ROLE_DECODE,
    "a": common_pb2.WORKER_ROLE_ANY,
}


class Router:
    """A pool whose workers' names begin with their role: p, d or a."""

    def __init__(self, *names: str, policy: Policy | None = None, **digests: str) -> None:
        self.pool = Pool()
        self.policy = policy or LeastLoaded()
        self.rng = random.Random(3)
        self.rows: dict[str, int] = {}
        for name in names:
            self.add(name, digests.get(name, "same"))

    def add(self, name: str, digest: str = "same") -> None:
        lease = common_pb2.WorkerLease(
            worker=common_pb2.WorkerRef(worker_id=name, epoch=1),
            role=ROLES[name[0]],
            model="m",
            digest=digest,
            capacity=common_pb2.Capacity(
                num_blocks=100, block_size=16, max_sequences=10, max_batch_tokens=64
            ),
        )
        self.rows[name] = self.pool.add(lease)
        self.pool.set_up(self.rows[name], True)

    def load(self, name: str, **fields: Any) -> None:
        fields = {"queue_room": 5, "free_blocks": 100} | fields
        self.pool.report(self.rows[name], session_pb2.Load(**fields))

    def select(self, num_tokens: int = 32, **view: Any) -> Selection | None:
        avoid = frozenset(self.rows[name] for name in view.pop("avoid", ()))
        wanted = RequestView("m", num_tokens, avoid=avoid, **view)
        return select(wanted, self.pool, self.policy, self.rng)

    def pick(self, num_tokens: int = 32, **view: Any) -> str | None:
        """The chosen workers' names: "p1+d1" for a pair."""
        selection = self.select(num_tokens, **view)
        if selection is None:
            return None
        decode = self.pool.worker_id(selection.decode)
        if selection.prefill is None:
            return decode
        return f"{self.pool.worker_id(selection.prefill)}+{decode}"

    def place(self, num_tokens: int = 32, **view: Any) -> str | None:
        """Pick and book."""
        selection = self.select(num_tokens, **view)
        assert selection is not None
        book(RequestView("m", num_tokens, **view), self.pool, selection)
        names = [self.pool.worker_id(selection.decode)]
        if selection.prefill is not None:
            names.insert(0, self.pool.worker_id(selection.prefill))
        return "+".join(names)


def test_nobody_there_places_nothing() -> None:
    assert Router().pick() is None
    assert Router("p1").pick() is None


def test_prefill_and_decode_serve_as_a_pair() -> None:
    assert Router("p1", "d1").pick() == "p1+d1"


def test_any_worker_serves_alone() -> None:
    assert Router("a1").pick() == "a1"


def test_decode_worker_computes_itself_without_a_prefill_pool() -> None:
    assert Router("d1").pick() == "d1"


def test_decode_worker_computes_itself_when_the_prefill_pool_is_gone() -> None:
    router = Router("p1", "d1")
    router.pool.set_up(router.rows["p1"], False)
    assert router.pick() == "d1"
    router.pool.set_up(router.rows["p1"], True)
    router.load("p1", draining=True)
    assert router.pick() == "d1"


def test_busy_prefill_pool_is_waited_for() -> None:
    router = Router("p1", "d1")
    router.load("p1", queue_room=0)
    assert router.pick() is None


def test_replay_is_computed_by_who_goes_on_with_it() -> None:
    assert Router("p1", "d1").pick(alone=True) == "d1"
    assert Router("p1", "a1", "d1").pick(alone=True) in ("a1", "d1")
    assert Router("p1").pick(alone=True) is None


def test_pairs_of_different_digests_are_never_formed() -> None:
    router = Router("p1", "p2", "d1", "d2", p1="x", d1="x", p2="y", d2="y")
    for name in ("p1", "d2"):
        router.load(name, queued_prefill_tokens=1000, num_running=9, free_blocks=50)
    assert {router.pick() for _ in range(20)} <= {"p1+d1", "p2+d2"}
    router = Router("p1", "d1", p1="x", d1="y")
    assert router.pick() == "d1"


def test_full_workers_hold_requests_back() -> None:
    router = Router("a1")
    router.load("a1", queue_room=2)
    router.place(num_tokens=80)
    router.place(num_tokens=80)
    assert router.pick() is None
    router.load("a1", queue_room=1)
    assert router.pick() == "a1"


def test_target_without_free_blocks_holds_back_unless_it_is_idle() -> None:
    router = Router("p1", "d1")
    router.load("d1", free_blocks=4)
    assert router.place(num_tokens=160) == "p1+d1", "an idle worker may be asked anything"
    assert router.pick(num_tokens=160) is None
    router.load("d1", free_blocks=40)
    assert router.pick(num_tokens=160) == "p1+d1"


def test_worker_that_failed_the_request_is_avoided_if_there_is_another() -> None:
    router = Router("d1", "d2")
    assert {router.pick(avoid=["d1"]) for _ in range(10)} == {"d2"}
    assert Router("d1").pick(avoid=["d1"]) == "d1"
    assert Router("p1", "d1").pick(avoid=["d1"]) == "p1+d1"


def test_round_robin_takes_turns_also_while_the_pool_changes() -> None:
    router = Router("a1", "a2", "a3", policy=RoundRobin())
    first = [router.place() for _ in range(3)]
    assert sorted(first) == ["a1", "a2", "a3"]
    assert [router.place() for _ in range(3)] == first
    router.add("a4")
    assert router.place() == "a4"
    assert [router.place() for _ in range(3)] == first


def test_round_robin_pairs_both_pools_in_turn() -> None:
    router = Router("p1", "p2", "d1", "d2", "d3", policy=RoundRobin())
    placed = [str(router.place()).split("+") for _ in range(6)]
    assert sorted(p for p, _ in placed) == ["p1"] * 3 + ["p2"] * 3
    assert sorted(d for _, d in placed) == ["d1"] * 2 + ["d2"] * 2 + ["d3"] * 2


def test_least_loaded_prefers_short_prefill_queues_and_small_batches() -> None:
    router = Router("p1", "p2", "d1", "d2")
    router.load("p1", queued_prefill_tokens=500)
    router.load("p2", queued_prefill_tokens=100)
    router.load("d1", num_running=3)
    router.load("d2", num_running=7)
    assert router.pick() == "p2+d1"


def test_least_loaded_counts_what_was_dispatched_since_the_report() -> None:
    router = Router("p1", "p2", "d1")
    picks = [router.place(num_tokens=64) for _ in range(4)]
    assert sorted(picks, key=str) == ["p1+d1", "p1+d1", "p2+d1", "p2+d1"]


def test_least_loaded_decode_prefers_free_blocks() -> None:
    router = Router("d1", "d2")
    router.load("d1", free_blocks=20)
    assert {router.pick() for _ in range(10)} == {"d2"}


def test_equal_scores_are_drawn_with_the_given_seed() -> None:
    def picks(seed: int) -> list[str | None]:
        router = Router("a1", "a2", "a3")
        router.rng = random.Random(seed)
        return [router.pick() for _ in range(30)]

    assert picks(1) == picks(1)
    assert set(picks(1)) == {"a1", "a2", "a3"}


def test_policy_is_named_in_the_settings() -> None:
    assert policy_named("round_robin").name == "round_robin"
    with pytest.raises(ConfigError, match=r"one of kv_aware, .*round_robin"):
        policy_named("fastest")
