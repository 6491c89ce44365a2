"""What users lay over the pods that the operator makes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from baton_operator.types.base import Part
from baton_operator.types.scalars import Quantity, StringMap, Text


class PodMetadata(Part):
    """Labels and annotations for pods."""

    labels: StringMap = Field({})
    """Added to the pods' labels; those of Baton win."""
    annotations: StringMap = Field({})
    """Added to the pods' annotations; those of Baton win."""


class PodTemplate(Part):
    """Merged over the pod that the operator makes, lists by name as `kubectl patch` does."""

    metadata: PodMetadata = PodMetadata()
    """Labels and annotations for the pods."""
    spec: dict[str, Any] = Field(
        {}, json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}
    )
    """A PodSpec in part; `kubectl explain pod.spec` lists its fields. The container of a worker or
    gateway is named baton. The merged pod is checked when it is applied: condition reason
    Invalid."""


class ResourceClaim(Part):
    """A claim of the pod, for dynamic resource allocation."""

    name: Text
    """Name in podTemplate.spec.resourceClaims."""
    request: Text | None = None
    """One request of that claim; unset takes all of them."""


class Resources(Part):
    """What the container asks for, as in a pod."""

    requests: Annotated[dict[str, Quantity], Field(max_length=32)] = Field({})
    """Amounts that the scheduler sets aside."""
    limits: Annotated[dict[str, Quantity], Field(max_length=32)] = Field({})
    """Amounts that the container cannot exceed."""
    claims: Annotated[list[ResourceClaim], Field(max_length=16)] = Field([])
    """Claims of podTemplate.spec.resourceClaims that the container uses."""
