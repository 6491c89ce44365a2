"""How far a pool may go towards its goals at once: maxSurge and maxUnavailable.

Workers that are on their way out still hold their GPUs, so they count against the ceiling, and
serve nothing new, so they do not count for the floor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from baton_operator.decide.rollout.goals import PoolState


@dataclass(frozen=True, slots=True)
class Size:
    """What a workload is to be right now."""

    keep: int
    """Workers that stay; the others of `replicas` are to drain."""
    replicas: int


def within_limits(
    pool: PoolState, goals: Mapping[str, int], shrink_order: list[str]
) -> dict[str, Size]:
    """Sizes by revision. `shrink_order`: who gives workers up first; who gets new ones is its
    reverse."""
    keep = _shrunk(pool, goals, shrink_order)
    room = pool.ceiling - sum(each.replicas for each in pool.workloads.values())
    sizes = {}
    for revision in reversed(shrink_order):
        found = pool.of(revision)
        replicas, kept = (found.replicas, found.kept) if found else (0, 0)
        goal = goals.get(revision, 0)
        if goal > kept:
            # One on its way out can be called back without room.
            called_back = min(goal - kept, replicas - kept)
            grown = max(0, min(goal - kept - called_back, room))
            room -= grown
            keep[revision] = kept + called_back + grown
        sizes[revision] = Size(keep[revision], max(replicas, keep[revision]))
    return sizes


def _shrunk(pool: PoolState, goals: Mapping[str, int], order: list[str]) -> dict[str, int]:
    """What each revision keeps once it has given up what it can now."""
    spare = max(0, sum(each.available for each in pool.workloads.values()) - pool.floor)
    keep = {}
    for revision in order:
        found = pool.of(revision)
        kept, broken = (found.kept, found.broken) if found else (0, 0)
        excess = max(0, kept - goals.get(revision, 0))
        # Those that serve nothing go first, and are missed by nobody.
        free = min(excess, broken)
        paid = min(excess - free, spare)
        spare -= paid
        keep[revision] = kept - free - paid
    return keep
