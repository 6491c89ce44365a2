"""Where a rollout is in time: what it replaces, whether it still moves, when it is over.

Everything that has to outlast a restart is in the status's `revision`.
"""

from __future__ import annotations

from collections.abc import Sequence

from baton_operator.decide.clocks import is_ahead
from baton_operator.decide.rollout.goals import PoolState, Rollout, goals
from baton_operator.decide.text import time_text, unix_s
from baton_operator.types.status import RevisionStatus


def stable_revision(
    pools: Sequence[PoolState], target: str | None, current: str | None
) -> str | None:
    """Who serves until the target can: the last one that was complete, else who serves most."""
    serving: dict[str, tuple[int, int]] = {}
    for pool in pools:
        for revision, workload in pool.workloads.items():
            if revision != target and workload.replicas:
                available, kept = serving.get(revision, (0, 0))
                serving[revision] = (available + workload.available, kept + workload.kept)
    if current in serving:
        return current
    return max(serving, key=lambda revision: (serving[revision], revision), default=None)


def is_complete(rollout: Rollout) -> bool:
    """Whether the target alone is there, in full."""
    return (
        rollout.target is not None
        and rollout.over
        and all(
            pool.available(rollout.target) >= pool.desired == pool.kept(rollout.target)
            for pool in rollout.pools
            if not pool.removed
        )
    )


def is_failed(before: RevisionStatus, rollout: Rollout, deadline_s: float, now_s: float) -> bool:
    """Whether new workers were waited for too long. One that comes after all ends that."""
    if before.updating != rollout.target or before.since is None:
        return False
    late = now_s - unix_s(before.since) >= deadline_s
    return late and _waits(rollout) and _score(rollout) <= (before.progress or 0)


def advanced(
    before: RevisionStatus, rollout: Rollout, *, failed: bool, now_s: float
) -> RevisionStatus:
    """The `revision` of the status after what was seen."""
    target = rollout.target
    if target is None:
        return before
    if is_complete(rollout) or (rollout.over and before.current == target):
        return RevisionStatus(current=target)
    score, best, since = _score(rollout), before.progress, before.since
    if before.updating != target or best is None or score > best:
        best, since = score, None
    if since is not None and is_ahead(unix_s(since), now_s):
        since = None
    if rollout.paused or _waits_as_canary(rollout):
        # The clock stands while somebody wants it to wait, and begins anew afterwards.
        since, failed = None, False
    else:
        since = since or time_text(now_s)
    return RevisionStatus(
        current=before.current,
        updating=target,
        failed=target if failed else None,
        since=since,
        progress=best,
    )


def _waits_as_canary(rollout: Rollout) -> bool:
    """Whether the new revision has its share, and nothing is to happen until the user says."""
    wanted = goals(rollout)
    return rollout.is_canary and all(
        pool.available(rollout.target) >= wanted.get((pool.name, rollout.target or ""), 0)
        for pool in rollout.pools
    )


def _waits(rollout: Rollout) -> bool:
    """Whether it is new workers that the next step waits for."""
    new = [pool.of(rollout.target) for pool in rollout.pools if pool.wants_new]
    return any(each is None or each.broken or not each.available for each in new)


def _score(rollout: Rollout) -> int:
    """Grows with each new worker that is made, and with each that serves."""
    return sum(pool.kept(rollout.target) + pool.available(rollout.target) for pool in rollout.pools)
