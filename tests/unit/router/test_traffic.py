"""New requests are split between revisions; a request stays in one, and no weight fails any."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.router.policy.base import RequestView
from baton.router.policy.registry import policy_named
from baton.router.pool import Pool
from baton.router.selection import Selection, select
from baton.router.traffic import Revision, order, shares
from baton.v1 import session_pb2
from fakes.routing import NUM_BLOCKS, lease

NAMES = ("r1", "r2", "r3")
revisions = st.lists(
    st.builds(
        Revision,
        name=st.sampled_from(NAMES),
        has_prefill=st.booleans(),
        has_decode=st.booleans(),
        has_both=st.booleans(),
        capacity=st.integers(0, 1000),
    ),
    unique_by=lambda revision: revision.name,
)
weights = st.dictionaries(st.sampled_from((*NAMES, "gone")), st.floats(0, 100))


def revision(name: str, roles: str, capacity: int = 10) -> Revision:
    return Revision(name, "p" in roles, "d" in roles, "a" in roles, capacity)


@given(found=revisions, weights=weights)
def test_shares_add_up_and_go_only_to_who_can_serve(
    found: list[Revision], weights: dict[str, float]
) -> None:
    parts = shares(found, weights)
    can_serve = [r.generates for r in found]
    assert sum(parts) == pytest.approx(1.0 if any(can_serve) else 0.0)
    assert all(part >= 0 for part in parts)
    assert not any(part for part, able in zip(parts, can_serve, strict=True) if not able)


@pytest.mark.parametrize(
    ("found", "weights", "expected"),
    [
        # By capacity.
        ([revision("r1", "pd", 30), revision("r2", "pd", 10)], {}, [0.75, 0.25]),
        # Complete or nothing; one that does both lacks no role.
        ([revision("r1", "pd", 30), revision("r2", "d", 10)], {}, [1.0, 0.0]),
        ([revision("r1", "pd", 30), revision("r2", "p", 0)], {"r2": 1.0}, [1.0, 0.0]),
        ([revision("r1", "pd", 30), revision("r2", "a", 10)], {}, [0.75, 0.25]),
        # Nobody pairs: decode workers compute their prompts.
        ([revision("r1", "d", 30), revision("r2", "d", 10)], {}, [0.75, 0.25]),
        # A prefill worker that has nobody to pair with makes nobody incomplete.
        ([revision("r1", "d", 30), revision("r2", "p", 0)], {}, [1.0, 0.0]),
        # By weight; who is not named gets nothing.
        ([revision("r1", "a", 30), revision("r2", "a", 10)], {"r1": 90, "r2": 10}, [0.9, 0.1]),
        ([revision("r1", "a", 30), revision("r2", "a", 10)], {"r2": 10}, [0.0, 1.0]),
        # Weights of the absent and the incomplete go to the others.
        (
            [revision("r1", "pd"), revision("r2", "pd"), revision("r3", "p")],
            {"r1": 1, "r2": 3, "r3": 4, "gone": 92},
            [0.25, 0.75, 0.0],
        ),
        # Only the others are left: their capacity decides.
        ([revision("r1", "a", 30), revision("r2", "a", 10)], {"r3": 1}, [0.75, 0.25]),
        ([revision("r1", "a", 0)], {}, [1.0]),
        ([], {"r1": 1}, []),
    ],
)
def test_how_shares_come_about(
    found: list[Revision], weights: dict[str, float], expected: list[float]
) -> None:
    assert shares(found, weights) == pytest.approx(expected)


@given(
    request_id=st.text(),
    named=st.dictionaries(st.text(max_size=5), st.floats(0, 1, allow_subnormal=False)),
)
def test_an_order_has_each_that_has_a_share_and_is_always_the_same(
    request_id: str, named: dict[str, float]
) -> None:
    found = order(request_id, named)
    assert sorted(found) == sorted(name for name, share in named.items() if share > 0)
    assert found == order(request_id, dict(reversed(named.items())))


def test_requests_go_by_share_and_a_share_that_grows_only_takes() -> None:
    ids = [f"chatcmpl-{i:032x}" for i in range(20_000)]
    before = [order(name, {"r1": 0.9, "r2": 0.1})[0] for name in ids]
    assert Counter(before)["r2"] == pytest.approx(2000, rel=0.1)
    after = [order(name, {"r1": 0.75, "r2": 0.25})[0] for name in ids]
    assert Counter(after)["r2"] == pytest.approx(5000, rel=0.1)
    moved = [(b, a) for b, a in zip(before, after, strict=True) if b != a]
    assert set(moved) == {("r1", "r2")}


class Rollout:
    """A pool with workers of revisions: "p1" prefills, "d1" decodes, "a1" does both."""

    def __init__(self, **workers: tuple[str, ...]) -> None:
        """`r1=("p1", "d1")`; a digest after a colon, as in "d1:other"."""
        self.pool = Pool()
        self.rows: dict[str, int] = {}
        for revision, names in workers.items():
            for spelled in names:
                name, _, digest = spelled.partition(":")
                one = lease(name, digest or "same", revision=revision)
                self.rows[name] = self.pool.add(one)
                self.pool.set_up(self.rows[name], True)
        self.rng = random.Random(1)
        self.policy = policy_named("least_loaded")

    def load(self, name: str, **fields: int) -> None:
        fields = {"queue_room": 10, "free_blocks": NUM_BLOCKS} | fields
        self.pool.report(self.rows[name], session_pb2.Load(**fields))

    def select(self, request_id: str = "a", **view: object) -> Selection | None:
        asked = RequestView("m", 100, request_id=request_id, **view)  # type: ignore[arg-type]
        return select(asked, self.pool, self.policy, self.rng)

    def names(self, selection: Selection | None) -> set[str]:
        assert selection is not None
        rows = {selection.decode, selection.prefill}
        return {name for name, row in self.rows.items() if row in rows}

    def spread(self, count: int = 400) -> Counter[str]:
        """Where so many new requests go, by the name of the worker that decodes."""
        found: Counter[str] = Counter()
        for i in range(count):
            selection = self.select(f"id-{i}")
            assert selection is not None
            found[self.pool.worker_id(selection.decode)] += 1
        return found


@given(st.integers(0, 10_000))
def test_pairs_are_of_one_revision_though_all_could_exchange_kv(number: int) -> None:
    rollout = Rollout(r1=("p1", "d1"), r2=("p2", "d2"))
    assert rollout.names(rollout.select(f"{number}")) in ({"p1", "d1"}, {"p2", "d2"})


def test_capacity_splits_and_an_incomplete_revision_gets_nothing() -> None:
    rollout = Rollout(r1=("p1", "d1", "d3", "d5"), r2=("p2", "d2"))
    found = rollout.spread()
    assert found["d2"] == pytest.approx(100, rel=0.25)
    rollout.pool.set_up(rollout.rows["p2"], False)
    assert rollout.spread()["d2"] == 0
    # The old one is drained: the other takes all, complete or not.
    for name in ("p1", "d1", "d3", "d5"):
        rollout.load(name, draining=True)
    assert rollout.names(rollout.select()) == {"d2"}


def test_weights_split_and_fail_nobody() -> None:
    rollout = Rollout(r1=("a1",), r2=("a2",))
    rollout.pool.set_weights({"r1": 90, "r2": 10})
    assert rollout.spread()["a2"] == pytest.approx(40, rel=0.3)
    rollout.pool.set_weights({"r1": 100, "r2": 0})
    assert rollout.spread() == {"a1": 400}
    # Not even for want of room: nothing was asked of r2.
    rollout.load("a1", queue_room=0)
    assert rollout.select() is None
    rollout.pool.set_up(rollout.rows["a1"], False)
    assert rollout.names(rollout.select()) == {"a2"}
    rollout.pool.set_weights({})
    assert rollout.names(rollout.select()) == {"a2"}


def test_a_full_revision_holds_up_nobody_where_another_has_a_share() -> None:
    rollout = Rollout(r1=("a1",), r2=("a2",))
    rollout.pool.set_weights({"r1": 1, "r2": 99})
    rollout.load("a2", queue_room=0)
    assert rollout.spread() == {"a1": 400}


def began_in(rollout: Rollout, name: str) -> tuple[int, int]:
    return rollout.pool.kind(rollout.rows[name])


def test_a_request_with_tokens_stays_in_its_revision_while_that_has_a_worker() -> None:
    rollout = Rollout(r1=("a1:x", "a3:x"), r2=("a2:y",))
    rollout.pool.set_weights({"r2": 1})
    where = began_in(rollout, "a1")
    for i in range(20):
        found = rollout.select(f"{i}", began_in=where, avoid=frozenset([rollout.rows["a1"]]))
        assert rollout.names(found) == {"a3"}
    rollout.pool.set_up(rollout.rows["a3"], False)
    # It is the only one of its digest, whatever it did.
    found = rollout.select(began_in=where, avoid=frozenset([rollout.rows["a1"]]))
    assert rollout.names(found) == {"a1"}
    rollout.pool.set_up(rollout.rows["a1"], False)
    assert rollout.names(rollout.select(began_in=where)) == {"a2"}


def test_a_request_with_tokens_may_go_on_in_another_revision_of_its_digest() -> None:
    rollout = Rollout(r1=("a1",), r2=("a2",))
    where = began_in(rollout, "a1")
    for i in range(20):
        assert rollout.names(rollout.select(f"{i}", began_in=where)) == {"a1"}
    rollout.load("a1", queue_room=0)
    assert rollout.names(rollout.select(began_in=where)) == {"a2"}


def test_new_requests_avoid_who_failed_them_across_revisions() -> None:
    rollout = Rollout(r1=("a1",), r2=("a2",))
    for i in range(20):
        found = rollout.select(f"{i}", avoid=frozenset([rollout.rows["a1"]]))
        assert rollout.names(found) == {"a2"}


def test_of_one_revision_nobody_computes_a_split(monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = Rollout(r1=("p1", "d1"))
    monkeypatch.setattr(Pool, "split", None)
    assert rollout.names(rollout.select()) == {"p1", "d1"}
