"""What `reconcile` asks for: instructions to the shell, which performs them at the same time.

Each may fail or happen twice; the next round sees what is there and decides again. One that fails
does not end the round, the status is written in any case: no action of a round relies on another
one of the same round. An action's own `event` is emitted once it has succeeded. What the API server
refused is told in the next round (`Seen.refused`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from baton_operator.seen import Manifest


@dataclass(frozen=True, slots=True)
class Emit:
    """A Kubernetes event about the ModelService."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply with force as the operator's field manager: make it, or repair it."""

    manifest: Manifest
    event: Emit | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete this very object (`uid` is a precondition)."""

    kind: str
    name: str
    uid: str
    event: Emit | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """Set `spec.replicas` of a Deployment or LeaderWorkerSet.

    Only if it still has `expected` there and is still that `uid`; otherwise somebody else was
    faster, and the round is done again.
    """

    kind: str
    name: str
    uid: str
    replicas: int
    expected: int
    event: Emit | None = None


@dataclass(frozen=True, slots=True)
class SetPoolReplicas:
    """Write the user's count into a WorkerPool, as one merge patch.

    `spec.replicas`, and the annotation `names.ANNOTATION_POOL_REPLICAS` with the same number,
    which says what was written last. Not a part of `Apply`: the field belongs to whoever wrote it
    last (kubectl scale, an HPA, KEDA), and a server-side apply that had it once and leaves it out
    the next time would delete it.
    """

    name: str
    replicas: int


@dataclass(frozen=True, slots=True)
class MarkVictim:
    """Merge patch of a pod's annotations, before it is asked to drain.

    `names.ANNOTATION_DELETION_COST` = `deletion_cost` (so that its controller removes it and no
    other) and `names.ANNOTATION_DRAIN_SINCE` = `since_s` (unix seconds, so that a restarted
    operator knows). None removes the annotation: the pod is wanted again.
    """

    pod: str
    uid: str
    deletion_cost: int | None
    since_s: float | None
    event: Emit | None = None


@dataclass(frozen=True, slots=True)
class Drain:
    """Ask every gateway to give the worker nothing new and to move its sequences away."""

    worker: str
    within_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Undrain:
    """Take a drain back."""

    worker: str


@dataclass(frozen=True, slots=True)
class SetTraffic:
    """The shares of new requests for revisions; empty: by ready capacity, the router's own way."""

    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PatchStatus:
    """The whole status of the ModelService (or of a WorkerPool), by server-side apply."""

    kind: str
    name: str
    status: Manifest


@dataclass(frozen=True, slots=True)
class Requeue:
    """Look again after so long even if nothing is seen to change."""

    after_s: float


Action = (
    Apply
    | Delete
    | Scale
    | SetPoolReplicas
    | MarkVictim
    | Drain
    | Undrain
    | SetTraffic
    | PatchStatus
    | Emit
    | Requeue
)
