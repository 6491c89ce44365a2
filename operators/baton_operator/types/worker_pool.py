"""WorkerPool: one role's workers, with the only count of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from baton_operator.names import API_VERSION, MAX_SERVICE_NAME, POOL_KIND
from baton_operator.types.base import Part, Ruled, StatusPart, Transition
from baton_operator.types.object_meta import ObjectMeta
from baton_operator.types.pools import PoolName, Role
from baton_operator.types.status import WorkerPoolStatus


class WorkerPoolSpec(Part):
    """The workers of one pool of a ModelService."""

    service: Annotated[
        str,
        StringConstraints(
            pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=MAX_SERVICE_NAME
        ),
    ]
    """ModelService of this namespace that it belongs to."""
    pool: PoolName
    """Name of the pool there."""
    role: Role
    """prefill computes prompts, decode generates answers, any does both."""
    replicas: int = Field(1, ge=0, le=10000)
    """Workers that there should be: the only count, for `kubectl scale` and autoscalers."""

    transitions = (
        Transition(
            "self.service == oldSelf.service",
            "spec.service cannot change: the operator makes the pools of each ModelService",
        ),
        Transition(
            "self.pool == oldSelf.pool",
            "spec.pool cannot change: the operator makes the pools of each ModelService",
        ),
        Transition(
            "self.role == oldSelf.role",
            "spec.role cannot change: add a pool with another name to the ModelService and remove "
            "this one",
        ),
    )


class WorkerPool(Ruled, StatusPart):
    """The workers of one pool of a ModelService; `kubectl scale` and autoscalers change it."""

    api_version: str = API_VERSION
    kind: str = POOL_KIND
    metadata: ObjectMeta
    spec: WorkerPoolSpec
    """What is wanted."""
    status: WorkerPoolStatus = WorkerPoolStatus()
    """What the operator saw."""
