"""The size of each pool: WorkerPool's `spec.replicas`, which many may write."""

from __future__ import annotations

from baton_operator import names
from baton_operator.actions import Action, SetPoolReplicas
from baton_operator.decide.rollout.goals import PoolState
from baton_operator.decide.rollout.workloads import Fleet, Workload
from baton_operator.seen import Manifest, Seen
from baton_operator.types.pools import PoolSpec


def desired(seen: Seen, pool: PoolSpec) -> int:
    """Workers that there should be: the WorkerPool's own count once it has the user's."""
    found = _found(seen, pool)
    if found is None or not _has_current(seen, pool):
        return pool.replicas
    return int(found["spec"].get("replicas", 1))


def set_counts(seen: Seen) -> list[Action]:
    """The user's counts for WorkerPools that are new or whose count the user has changed."""
    return [
        SetPoolReplicas(names.worker_pool(seen.service.name, pool.name), pool.replicas)
        for pool in seen.service.spec.pools
        if _found(seen, pool) is not None and not _has_current(seen, pool)
    ]


def pool_states(seen: Seen, fleet: Fleet, keep: frozenset[str]) -> list[PoolState]:
    """All pools of the spec, and those that are no longer in it but still have workers.

    Of workloads without replicas only those of the revisions in `keep` count.
    """
    by_pool: dict[str, dict[str, Workload]] = {}
    for (pool_name, revision), workload in fleet.items():
        if workload.replicas > 0 or revision in keep:
            by_pool.setdefault(pool_name, {})[revision] = workload
    states = [
        PoolState(
            name=pool.name,
            desired=desired(seen, pool),
            workloads=by_pool.pop(pool.name, {}),
            max_surge=pool.rollout.max_surge,
            max_unavailable=pool.rollout.max_unavailable,
        )
        for pool in seen.service.spec.pools
    ]
    return states + [
        PoolState(name=name, desired=0, workloads=workloads, max_surge=0, removed=True)
        for name, workloads in sorted(by_pool.items())
    ]


def _found(seen: Seen, pool: PoolSpec) -> Manifest | None:
    return seen.of_kind(names.POOL_KIND).get(names.worker_pool(seen.service.name, pool.name))


def _has_current(seen: Seen, pool: PoolSpec) -> bool:
    """Whether the count that the user wants was written already."""
    found = _found(seen, pool)
    notes = (found or {}).get("metadata", {}).get("annotations") or {}
    return notes.get(names.ANNOTATION_POOL_REPLICAS) == str(pool.replicas)
