"""How many workers of each revision a rollout wants in each pool, at the stage it is in.

The stage is read off what is there, never remembered, so that a restart, a rollback to the
previous spec or a third revision in the middle is nothing special: it only changes who the target
is. Revisions: the `target` is the spec's, `stable` the one that served before and serves on until
the target can, the `others` are left from rollouts that were given up.

With PairFirst every pool gets one new worker first (PAIR); once all of them serve, the rest
follows step by step (FULL), and the last old worker of each pool goes when the last ones of all
pools can: an old prefill worker has nobody to hand its KV to once the old decode workers are gone.
Nor does it go before the gateways have been replaced, which begins with the first new pair: old
ones may have work for old workers alone.
With a weight the new revision gets its share of the pools and stays there (CANARY). Paused, failed
or without a target (the model is not resolved yet) everything stays as it is, and only a changed
size of a pool is followed (HOLD). How fast any of this may go is decided in `surge`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from baton_operator.decide.rollout.workloads import Workload


class Stage(Enum):
    HOLD = "hold"
    PAIR = "pair"
    CANARY = "canary"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class PoolState:
    """One pool, with its workloads by revision."""

    name: str
    desired: int
    workloads: Mapping[str, Workload]
    max_surge: int = 1
    max_unavailable: int = 0
    removed: bool = False
    """No longer in the spec: it goes with the last old workers."""

    def of(self, revision: str | None) -> Workload | None:
        return self.workloads.get(revision) if revision is not None else None

    def kept(self, revision: str | None) -> int:
        found = self.of(revision)
        return found.kept if found else 0

    def available(self, revision: str | None) -> int:
        found = self.of(revision)
        return found.available if found else 0

    @property
    def floor(self) -> int:
        """Fewest workers that have to serve, as far as the operator decides it."""
        return max(0, self.desired - self.max_unavailable)

    @property
    def ceiling(self) -> int:
        """Most workers of all revisions together."""
        return self.desired + self.max_surge

    @property
    def wants_new(self) -> bool:
        return not self.removed and self.desired > 0

    @property
    def roomy(self) -> bool:
        """Whether two revisions fit in at the same time."""
        return self.ceiling >= 2


@dataclass(frozen=True, slots=True)
class Rollout:
    """What is to be done, of the whole service."""

    pools: Sequence[PoolState]
    target: str | None
    stable: str | None
    """None: there is no revision but the target."""
    pair_first: bool = True
    weight: int | None = None
    paused: bool = False
    failed: bool = False
    """The target made no progress for too long."""
    gateways_rolled: bool = True
    """Whether all gateways are the target's and are up: those of another revision may have another
    tokenizer, and then give its workers nothing."""

    @property
    def others(self) -> list[str]:
        """Left over revisions that are neither, in the order of their names."""
        found = {r for pool in self.pools for r in pool.workloads}
        return sorted(found - {self.target, self.stable})

    @property
    def over(self) -> bool:
        """Whether nothing of another revision is left."""
        return self.stable is None and not self.others

    @property
    def is_canary(self) -> bool:
        return self.weight is not None and self.weight < 100 and not self.over

    @property
    def cramped(self) -> tuple[str, ...]:
        """Pools too small for a canary beside the old revision."""
        return tuple(pool.name for pool in self.pools if pool.wants_new and not pool.roomy)


def stage_of(rollout: Rollout) -> Stage:
    """Where the rollout is."""
    if rollout.paused or rollout.failed or rollout.target is None:
        return Stage.HOLD
    if rollout.is_canary and rollout.cramped:
        return Stage.HOLD
    if rollout.over or not rollout.pair_first:
        return Stage.FULL
    if not _has_pair(rollout, rollout.pools):
        return Stage.PAIR
    return Stage.CANARY if rollout.is_canary else Stage.FULL


def goals(rollout: Rollout) -> dict[tuple[str, str], int]:
    """Workers wanted by (pool, revision), for every revision that has any and for the target."""
    stage, found = stage_of(rollout), {}
    may_retire = can_retire(rollout)
    for pool in rollout.pools:
        if stage is Stage.HOLD:
            wanted = _holding(pool, rollout)
        elif pool.removed:
            wanted = {
                r: 0 if may_retire and stage is Stage.FULL else pool.kept(r) for r in pool.workloads
            }
        elif stage is Stage.FULL:
            wanted = _full(pool, rollout, may_retire)
        else:
            wanted = _beside(pool, rollout, _new_beside_old(pool, rollout, stage))
        found.update({(pool.name, revision): count for revision, count in wanted.items()})
    return found


def gateways_wait(rollout: Rollout) -> bool:
    """Gateways follow a new revision once it serves: one that never does shall change nothing.

    They do so too when it was given up: it may have been for want of its gateways.
    """
    if rollout.target is None:
        return True
    stage = stage_of(replace(rollout, failed=False))
    return not rollout.over and stage in (Stage.PAIR, Stage.HOLD)


def can_retire(rollout: Rollout) -> bool:
    """Whether gateways and each pool can do without old workers: the last of them may go."""
    return rollout.gateways_rolled and (
        not rollout.pair_first
        or all(
            pool.available(rollout.target) >= max(pool.floor, 1 if pool.roomy else 0)
            for pool in rollout.pools
            if pool.wants_new
        )
    )


def _has_pair(rollout: Rollout, pools: Sequence[PoolState]) -> bool:
    return all(pool.available(rollout.target) >= 1 for pool in pools if pool.wants_new)


def _new_beside_old(pool: PoolState, rollout: Rollout, stage: Stage) -> int:
    """New workers while the old revision still has to serve."""
    kept = pool.kept(rollout.target)
    if not pool.wants_new:
        return 0
    if stage is Stage.CANARY and rollout.weight is not None:
        return max(1, math.ceil(pool.desired * rollout.weight / 100))
    others = [p for p in rollout.pools if p.roomy]
    # Where both do not fit in, the old worker goes only when all other pools have their new one.
    first = 1 if pool.roomy or _has_pair(rollout, others) else 0
    return min(pool.desired, max(kept, first))


def _beside(pool: PoolState, rollout: Rollout, new: int) -> dict[str, int]:
    """`new` workers of the target, and old ones that make up for those that are missing."""
    wanted = {rollout.target: new} if rollout.target else {}
    old = min(pool.desired, pool.ceiling - new)
    settled = rollout.is_canary and _has_pair(rollout, rollout.pools)
    if settled and rollout.weight is not None:
        old = min(old, pool.desired - math.floor(pool.desired * rollout.weight / 100))
    has_stable = pool.of(rollout.stable) is not None
    # Beside a canary that serves, the stable revision is waited for: nobody else would end it.
    can_stable = has_stable and (settled or pool.available(rollout.stable) > 0)
    for revision in rollout.others:
        # They were given up: they serve on only where the stable revision cannot.
        kept = 0 if can_stable else min(pool.kept(revision), pool.available(revision), old)
        wanted[revision] = kept
        old -= kept
    if rollout.stable is not None and has_stable:
        wanted[rollout.stable] = old
    return wanted


def _full(pool: PoolState, rollout: Rollout, may_retire: bool) -> dict[str, int]:
    wanted = dict.fromkeys(pool.workloads, 0)
    if rollout.stable is not None and not may_retire:
        wanted[rollout.stable] = min(1, pool.kept(rollout.stable))
    if rollout.target is not None:
        wanted[rollout.target] = pool.desired
    return wanted


def _holding(pool: PoolState, rollout: Rollout) -> dict[str, int]:
    """As it is; the stable revision follows the size of the pool.

    A pool that is no longer in the spec stays, too: going is a part of the rollout.
    """
    if pool.removed:
        return {revision: pool.kept(revision) for revision in pool.workloads}
    follows = rollout.stable or rollout.target
    wanted, left = {}, pool.desired
    for revision in (rollout.target, *rollout.others):
        if revision is None or revision == follows:
            continue
        kept = pool.kept(revision)
        if rollout.failed and revision == rollout.target and pool.wants_new and pool.roomy:
            # What could not even be made may be possible by now.
            kept = max(1, kept)
        if kept or revision in pool.workloads:
            wanted[revision] = min(kept, max(0, left))
            left -= wanted[revision]
    if follows is not None and (follows == rollout.target or follows in pool.workloads):
        surge = pool.max_surge if wanted else 0
        wanted[follows] = min(max(pool.kept(follows), left), max(0, left) + surge)
    return wanted
