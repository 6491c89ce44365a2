"""Taking workers away without breaking a stream: mark, drain, and only then lower the count.

One step a round for each victim, each read off what is seen:

1. chosen (`removal_key`'s first): marked with the time, in the pod's own annotations;
2. marked: the gateways are asked to drain it, again as long as they do not say that it drains;
3. empty, unknown to the gateways, or out of time: its deletion cost is lowered, so that its
   controller takes it before any other;
4. lowered: the count goes down by as many.

A LeaderWorkerSet removes its highest groups, whatever they cost: those are its victims, and the
count goes down no further than to the highest that is still busy.

Somebody else may delete or bring up pods in between. Who is marked and not a victim (any more) is
called back: undrained, its deletion cost taken off, and when it drains no more, the mark, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from baton_operator.actions import Action, Drain, Emit, MarkVictim, Scale, Undrain
from baton_operator.decide.clocks import is_ahead
from baton_operator.decide.rollout.surge import Size
from baton_operator.decide.rollout.workloads import Workload, drains
from baton_operator.seen import PodSeen, Signals

DRAINING_COST = -1
"""Of a victim that still has requests: if somebody lowers the count meanwhile, let it be this."""
EMPTY_COST = -1000


@dataclass(frozen=True, slots=True)
class Clearing:
    """By what victims are judged."""

    signals: Signals | None
    now_s: float
    drain_s: float
    """Time that a worker of this pool has to get rid of its requests."""
    reason: str = ""
    """Why it has to go, for the worker's log and the events."""


def resize(workload: Workload, size: Size, clearing: Clearing) -> list[Action]:
    """The next step of a workload that exists towards its size."""
    going = workload.slots[: max(0, workload.replicas - size.keep)]
    victims = [pod for pod in going if pod is not None]
    actions = list(_steps(victims, clearing))
    actions += _called_back(workload, victims, clearing.signals)
    replicas = size.replicas - _num_leaving(going, clearing, workload.in_order)
    if replicas != workload.replicas:
        actions.append(_scale(workload, replicas))
    return actions


def _steps(victims: Sequence[PodSeen], clearing: Clearing) -> Iterator[Action]:
    for pod in victims:
        if pod.drain_since is None or is_ahead(pod.drain_since, clearing.now_s):
            told = Emit("Normal", "Draining", f"worker {pod.name} is to go: {clearing.reason}")
            yield MarkVictim(pod.name, pod.uid, DRAINING_COST, clearing.now_s, told)
        elif not _is_cleared(pod, clearing):
            left_s = pod.drain_since + clearing.drain_s - clearing.now_s
            if not drains(pod, clearing.signals):
                yield Drain(pod.name, left_s, clearing.reason)
        elif pod.deletion_cost > EMPTY_COST:
            yield MarkVictim(pod.name, pod.uid, EMPTY_COST, pod.drain_since)


def _called_back(
    workload: Workload, victims: Sequence[PodSeen], signals: Signals | None
) -> Iterator[Action]:
    for pod in workload.pods:
        if pod.drain_since is None or pod in victims:
            continue
        if pod.deletion_cost or drains(pod, signals):
            # Once in any case: the gateways may not say yet that it drains.
            yield Undrain(pod.name)
        if pod.deletion_cost:
            yield MarkVictim(pod.name, pod.uid, None, pod.drain_since)
        elif signals is not None and not drains(pod, signals):
            told = Emit("Normal", "DrainUndone", f"worker {pod.name} is to stay after all")
            yield MarkVictim(pod.name, pod.uid, None, None, told)


def _num_leaving(going: Sequence[PodSeen | None], clearing: Clearing, in_order: bool) -> int:
    """Replicas by which the count may go down now."""
    free = [
        pod is None or (_is_cleared(pod, clearing) and pod.deletion_cost <= EMPTY_COST)
        for pod in going
    ]
    # In order: not past one that is still busy.
    return sum(takewhile(bool, free)) if in_order else sum(free)


def _is_cleared(pod: PodSeen, clearing: Clearing) -> bool:
    """Whether a marked pod may go."""
    if pod.drain_since is None:
        return False
    if pod.phase != "Running" or clearing.now_s >= pod.drain_since + clearing.drain_s:
        return True
    if clearing.signals is None:
        return False
    signal = clearing.signals.workers.get(pod.name)
    return signal is None or (signal.draining and signal.num_requests == 0)


def _scale(workload: Workload, replicas: int) -> Scale:
    more = replicas > workload.replicas
    told = Emit(
        "Normal",
        "ScaledUp" if more else "ScaledDown",
        f"pool {workload.pool}, revision {workload.revision}: "
        f"{workload.replicas} to {replicas} workers",
    )
    return Scale(
        workload.kind, workload.name, workload.uid, replicas, expected=workload.replicas, event=told
    )
