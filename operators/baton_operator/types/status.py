"""What the operator says of a service and of a pool."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from baton_operator.types.base import StatusPart
from baton_operator.types.scalars import ListMap

Phase = Literal["Pending", "Starting", "Ready", "Updating", "Degraded", "Stalled"]


class Condition(StatusPart):
    """As `kubectl wait --for=condition=` reads it."""

    type: str = Field(max_length=64)
    """What is told about."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str = Field(max_length=256)
    """One word for programs."""
    message: str = Field("", max_length=4096)
    """A sentence for people, with what to do."""
    last_transition_time: str = Field(json_schema_extra={"format": "date-time"})
    """When status last changed."""
    observed_generation: int | None = None
    """The generation of the spec that this is about."""


class PoolStatus(StatusPart):
    """Workers of one pool."""

    name: str
    """Name of the pool."""
    desired: int = 0
    """Workers that there should be."""
    ready: int = 0
    """Workers that take requests."""
    draining: int = 0
    """Workers that finish what they have and go."""
    updated: int = 0
    """Workers of the newest revision."""


class RevisionStatus(StatusPart):
    """Revisions of all pools together."""

    current: str | None = None
    """The revision that serves."""
    updating: str | None = None
    """The one that takes over; absent when no rollout is under way."""
    failed: str | None = None
    """The updating one, when it made no progress within its deadline and so does not go on."""
    since: str | None = Field(None, json_schema_extra={"format": "date-time"})
    """When the rollout under way last made progress."""
    progress: int | None = None
    """How far that is: new workers that were made and those that were ready, at best."""
    weight: int | None = None
    """Percent of new requests that go to the updating revision."""


class ModelStatus(StatusPart):
    """What the model's names were found to stand for."""

    source: str | None = None
    """The source that was looked up."""
    requested: str | None = None
    """The revision that the spec named then; absent where it named none."""
    revision: str | None = None
    """The commit that its revision stood for, kept until the spec names another."""


class SloStatus(StatusPart):
    """What gateways measured over the last minutes, at the quantile of spec.slo."""

    ttft_seconds: float | None = None
    """Time to the first token in seconds."""
    tpot_seconds: float | None = None
    """Time per output token after the first in seconds."""


class StartupStatus(StatusPart):
    """How far starting workers are."""

    downloading: str | None = None
    """Progress of downloads, for instance 3.2 of 15.3 GiB (21%)."""
    loading: str | None = None
    """Workers that load weights, for instance 2 of 4 workers."""


class ModelServiceStatus(StatusPart):
    """What the operator saw; nobody else can write it."""

    observed_generation: int | None = None
    """The generation of the spec that all this is about."""
    phase: Phase | None = None
    """The state in a word; conditions say more."""
    url: str | None = None
    """Where clients reach the service."""
    workers: str | None = None
    """Ready and desired workers of all pools, for instance 3/4."""
    conditions: Annotated[list[Condition], ListMap("type")] = Field([])
    """Ready, Stalled, Progressing, Degraded, PrefillReady, DecodeReady, GatewayReady, ModelCached,
    SLOMet, TransportReady."""
    pools: Annotated[list[PoolStatus], ListMap("name")] = Field([])
    """Workers by pool."""
    revision: RevisionStatus = RevisionStatus()
    """Revisions of all pools together."""
    model: ModelStatus = ModelStatus()
    """What the model's names were found to stand for."""
    image: str | None = None
    """The runtime image."""
    default_image: str | None = None
    """What an unset spec.image means for this service: the operator's image when it was first
    unset, kept so that an upgrade of the operator changes no running pod."""
    slo: SloStatus | None = None
    """What gateways measured; absent without slo in the spec or without requests."""
    startup: StartupStatus | None = None
    """How far starting workers are; absent when none starts."""


class WorkerPoolStatus(StatusPart):
    """What the operator saw of a pool."""

    replicas: int = 0
    """Workers that exist, of every revision."""
    ready_replicas: int = 0
    """Workers that take requests."""
    selector: str | None = None
    """Labels of the pool's pods, for autoscalers."""
    observed_generation: int | None = None
    """The generation of the spec that all this is about."""
    conditions: Annotated[list[Condition], ListMap("type")] = Field([])
    """Ready, Progressing, Stalled."""
