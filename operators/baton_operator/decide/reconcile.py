"""One round of one service: what was seen in, what is to be done out. Pure, and without memory.

    seen -> assess -> sizes of workloads -> children, sizes, traffic -> status, events

Level-triggered: the answer depends on what is there and never on what happened, so that lost
events, failed actions and restarts at any point only cost time. With nothing to do the answer is
empty, or asks to look again at a certain time.
"""

from __future__ import annotations

from collections.abc import Iterator

from baton_operator.actions import Action, PatchStatus, Requeue
from baton_operator.decide.report.conditions import Verdict, joined, transitions
from baton_operator.decide.report.status import report
from baton_operator.decide.rights import blinded
from baton_operator.decide.rollout.goals import PoolState, goals
from baton_operator.decide.rollout.pool_sizes import set_counts
from baton_operator.decide.rollout.surge import within_limits
from baton_operator.decide.rollout.traffic import set_traffic
from baton_operator.decide.rollout.victims import Clearing, resize
from baton_operator.decide.situation import Situation, assess
from baton_operator.decide.text import unix_s
from baton_operator.decide.troubles import Trouble
from baton_operator.decide.wanted import Sizes, apply_children, delete_children
from baton_operator.names import SERVICE_KIND
from baton_operator.resources.context import Installation
from baton_operator.seen import Manifest, Seen
from baton_operator.types.pools import PoolSpec

DRAIN_POLL_S = 2.0
"""Between two looks at workers that drain: gateways tell of their requests when asked only."""
DEFAULT_DRAIN_S = float(PoolSpec.model_fields["drain_seconds"].default)
"""For pools that are no longer in the spec."""


def reconcile(seen: Seen, installation: Installation) -> list[Action]:
    """The actions of a round; what is told of them, in order."""
    if seen.service.deleting:
        # Owner references take everything along.
        return []
    service, blind = seen.service, blinded(seen)
    if blind is not None:
        return refusal(service.name, service.generation, service.status, blind, seen.now_s)
    situation = assess(seen, installation)
    sizes = _sizes(situation)
    return [
        *apply_children(situation, sizes),
        *set_counts(seen),
        *_resize(situation, sizes),
        *set_traffic(situation.rollout, seen.signals),
        *delete_children(situation),
        *report(situation),
        *_look_again(situation),
    ]


def refusal(
    name: str, generation: int, status: Manifest, problem: Trouble, now_s: float
) -> list[Action]:
    """Of a service that nothing can be decided of; all that it has stays as it is."""
    found = [
        Verdict("Ready", "Unknown", problem.reason, problem.message),
        Verdict("Stalled", "True", problem.reason, problem.message),
    ]
    before = status.get("conditions") or ()
    kept = [each for each in before if each["type"] not in ("Ready", "Stalled")]
    after = [*joined(before, found, generation, now_s), *kept]
    new = {**status, "observedGeneration": generation, "phase": "Stalled", "conditions": after}
    if new == status:
        return []
    return [*transitions(before, after), PatchStatus(SERVICE_KIND, name, new)]


def _sizes(situation: Situation) -> Sizes:
    rollout = situation.rollout
    wanted = goals(rollout)
    order = [*rollout.others, rollout.stable, rollout.target]
    shrink_order = [revision for revision in order if revision is not None]
    return {
        (pool.name, revision): size
        for pool in rollout.pools
        for revision, size in within_limits(
            pool,
            {r: count for (name, r), count in wanted.items() if name == pool.name},
            [r for r in shrink_order if r in pool.workloads or (pool.name, r) in wanted],
        ).items()
    }


def _resize(situation: Situation, sizes: Sizes) -> Iterator[Action]:
    for pool in situation.rollout.pools:
        for revision, workload in sorted(pool.workloads.items()):
            clearing = _clearing(situation, pool, revision)
            yield from resize(workload, sizes[pool.name, revision], clearing)


def _clearing(situation: Situation, pool: PoolState, revision: str) -> Clearing:
    seen, target = situation.seen, situation.rollout.target
    spec = seen.service.spec.pool(pool.name)
    if spec is None:
        reason = f"pool {pool.name} was removed"
    elif revision != target and target is not None:
        reason = f"revision {target} takes over"
    else:
        reason = f"pool {pool.name} is to have {pool.desired} workers"
    drain_s = float(spec.drain_seconds) if spec else DEFAULT_DRAIN_S
    return Clearing(seen.signals, seen.now_s, drain_s, reason)


def _look_again(situation: Situation) -> Iterator[Action]:
    seen = situation.seen
    if any(pod.drain_since is not None and not pod.deleting for pod in seen.workers):
        yield Requeue(DRAIN_POLL_S)
        return
    since = situation.revision.since
    if since is not None and situation.revision.failed is None:
        deadline_s = seen.service.spec.rollout.progress_deadline_seconds
        left_s = unix_s(since) + deadline_s - seen.now_s
        if left_s > 0:
            yield Requeue(max(1.0, left_s))
