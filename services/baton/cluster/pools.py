"""How many workers there are against how many there should be (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from baton.core.settings import PoolSettings


class WorkerStatus(IntEnum):
    """Ordered by how little is lost when a pool shrinks. DRAINING serves on, as it was told to."""

    FAILED = 0
    STARTING = 1
    DRAINING = 2
    READY = 3
    STOPPING = 4


@dataclass(frozen=True)
class SeenWorker:
    """A worker as it is. A failed one keeps its place until `retry_at`, a monotonic time in s."""

    worker_id: str
    role: str
    status: WorkerStatus
    retry_at: float = 0.0


@dataclass(frozen=True)
class Start:
    """Start a worker; an id seen as failed is started again."""

    worker_id: str
    role: str


@dataclass(frozen=True)
class Stop:
    """Drain and stop a worker, or forget a failed one."""

    worker_id: str


Action = Start | Stop


def targets(pools: PoolSettings) -> dict[str, int]:
    """Role to number of workers. Without prefill workers the others take both parts."""
    if pools.prefill == 0:
        return {"any": pools.decode}
    return {"prefill": pools.prefill, "decode": pools.decode}


def worker_name(role: str, index: int, generation: int) -> str:
    """A worker's stable name; a Ray started anew must not reuse those of workers that live on."""
    name = f"{role}-{index}"
    return f"{name}-r{generation}" if generation else name


def reconcile(
    target: Mapping[str, int], seen: Iterable[SeenWorker], now: float, generation: int = 0
) -> list[Action]:
    """What to do so that each role has its target. Stopping workers do not count.

    A pool that shrinks gives up failed workers first, then starting ones, then those that drain
    already, then the newest.
    """
    workers = list(seen)
    taken = {w.worker_id for w in workers}
    actions: list[Action] = []
    for role in sorted({*target, *(w.role for w in workers)}):
        members = [w for w in workers if w.role == role and w.status is not WorkerStatus.STOPPING]
        surplus = max(0, len(members) - target.get(role, 0))
        # Among equal ones the newest, seen last, go first.
        ranked = sorted(enumerate(members), key=lambda item: (item[1].status, -item[0]))
        victims = [w for _, w in ranked[:surplus]]
        actions += [Stop(w.worker_id) for w in victims]
        actions += [
            Start(w.worker_id, role)
            for w in members
            if w.status is WorkerStatus.FAILED and w.retry_at <= now and w not in victims
        ]
        index = 0
        for _ in range(target.get(role, 0) - len(members)):
            while worker_name(role, index, generation) in taken:
                index += 1
            name = worker_name(role, index, generation)
            taken.add(name)
            actions.append(Start(name, role))
    return actions
