"""What builders are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from baton_operator.seen import ServiceSeen
from baton_operator.types.model_service import ModelServiceSpec

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Installation:
    """What is the same for all services of one operator."""

    key: bytes = field(repr=False)
    """Every token and password of a service is made from it and the service's UID."""
    image: str | None = None
    """Runtime image for services that name none and have none recorded."""
    redis_address: str | None = None
    """HOST:PORT of the bundled Redis; None where the chart brings none."""
    monitors: bool = False
    """Whether services want PodMonitors and ServiceMonitors."""


@dataclass(frozen=True, slots=True)
class Context:
    """One service, and what was found out about it."""

    service: ServiceSeen
    installation: Installation
    image: str
    """Runtime image of workers and gateways: the spec's, or what the status has recorded."""
    commit: str | None = None
    """What `model.revision` was found to stand for; None for models that are not of a hub, or
    before it is known."""

    @property
    def spec(self) -> ModelServiceSpec:
        return self.service.spec

    @property
    def name(self) -> str:
        return self.service.name
