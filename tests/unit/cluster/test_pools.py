"""Reconciling pools: what is missing is started, what is too much is stopped, and no more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from baton.cluster.pools import SeenWorker, Start, Stop, WorkerStatus, reconcile, targets
from baton.core.settings import PoolSettings

READY, STARTING = WorkerStatus.READY, WorkerStatus.STARTING
FAILED, STOPPING = WorkerStatus.FAILED, WorkerStatus.STOPPING


def test_prefill_zero_makes_the_decode_workers_do_both() -> None:
    assert targets(PoolSettings(prefill=0, decode=3)) == {"any": 3}
    assert targets(PoolSettings(prefill=1, decode=2)) == {"prefill": 1, "decode": 2}


def test_an_empty_cluster_gets_every_worker() -> None:
    assert reconcile({"prefill": 1, "decode": 2}, [], 0.0) == [
        Start("decode-0", "decode"),
        Start("decode-1", "decode"),
        Start("prefill-0", "prefill"),
    ]


def test_ids_of_an_earlier_ray_are_not_used_again() -> None:
    assert reconcile({"any": 1}, [], 0.0, generation=2) == [Start("any-0-r2", "any")]


def test_the_id_of_a_stopping_worker_is_not_used_again() -> None:
    seen = [SeenWorker("any-0", "any", STOPPING)]
    assert reconcile({"any": 1}, seen, 0.0) == [Start("any-1", "any")]


def test_a_failed_worker_holds_its_place_until_it_may_be_tried_again() -> None:
    seen = [SeenWorker("any-0", "any", FAILED, retry_at=5.0)]
    assert reconcile({"any": 1}, seen, 4.9) == []
    assert reconcile({"any": 1}, seen, 5.0) == [Start("any-0", "any")]


def test_a_shrinking_pool_gives_up_failed_then_starting_then_newest() -> None:
    seen = [
        SeenWorker("any-0", "any", READY),
        SeenWorker("any-1", "any", READY),
        SeenWorker("any-2", "any", STARTING),
        SeenWorker("any-3", "any", FAILED, retry_at=0.0),
    ]
    stops = [reconcile({"any": n}, seen, 1.0) for n in (3, 2, 1)]
    assert stops == [
        [Stop("any-3")],
        [Stop("any-3"), Stop("any-2")],
        [Stop("any-3"), Stop("any-2"), Stop("any-1")],
    ]


def test_a_worker_that_drains_keeps_its_place_and_is_given_up_before_others() -> None:
    seen = [
        SeenWorker("any-0", "any", WorkerStatus.DRAINING),
        SeenWorker("any-1", "any", READY),
    ]
    assert reconcile({"any": 2}, seen, 0.0) == []
    assert reconcile({"any": 1}, seen, 0.0) == [Stop("any-0")]


def test_a_role_without_a_target_is_emptied() -> None:
    seen = [SeenWorker("prefill-0", "prefill", READY)]
    assert reconcile({"any": 0}, seen, 0.0) == [Stop("prefill-0")]


workers = st.lists(
    st.builds(
        SeenWorker,
        worker_id=st.sampled_from([f"{r}-{i}" for r in ("prefill", "decode") for i in range(5)]),
        role=st.just(""),
        status=st.sampled_from(WorkerStatus),
        retry_at=st.floats(0, 10),
    ).map(lambda w: SeenWorker(w.worker_id, w.worker_id.split("-")[0], w.status, w.retry_at)),
    unique_by=lambda w: w.worker_id,
)
counts = st.fixed_dictionaries({"prefill": st.integers(0, 5), "decode": st.integers(0, 5)})


@given(workers, counts, st.floats(0, 10))
def test_obeying_once_is_enough(seen: list[SeenWorker], target: dict[str, int], now: float) -> None:
    """After its actions each role holds exactly its target, and nothing is left to do."""
    after = {w.worker_id: w for w in seen}
    for action in reconcile(target, seen, now):
        if isinstance(action, Start):
            old = after.get(action.worker_id)
            assert old is None or old.status is FAILED
            after[action.worker_id] = SeenWorker(action.worker_id, action.role, STARTING)
        else:
            stopped = after.pop(action.worker_id)
            assert stopped.status is not STOPPING
    held = [w.role for w in after.values() if w.status is not STOPPING]
    assert {role: held.count(role) for role in target} == target
    assert reconcile(target, after.values(), now) == []
