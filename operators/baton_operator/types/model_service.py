"""ModelService: its spec in one piece, and the object."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from baton_operator.names import API_VERSION, MAX_SERVICE_NAME, SERVICE_KIND
from baton_operator.types.base import Part, Rule, Ruled, StatusPart
from baton_operator.types.gateway import GatewaySpec
from baton_operator.types.model import ModelSpec
from baton_operator.types.object_meta import ObjectMeta
from baton_operator.types.pools import PoolSpec, Role
from baton_operator.types.rollout import RolloutSpec, SecuritySpec
from baton_operator.types.scalars import Name, by_key
from baton_operator.types.status import ModelServiceStatus
from baton_operator.types.storage import StoreSpec, TiersSpec
from baton_operator.types.traffic import RoutingSpec, SloSpec, Tenant
from baton_operator.types.transport import TransportSpec


class ModelServiceSpec(Part):
    """One model, served by pools of workers behind gateways."""

    image: (
        Annotated[
            str,
            StringConstraints(
                pattern=r"^[a-z0-9][-._:/@A-Za-z0-9]*$", min_length=1, max_length=512
            ),
        ]
        | None
    ) = None
    """Image of workers and gateways; unset takes the operator's and keeps it
    (status.defaultImage)."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When nodes pull the image; unset follows Kubernetes' own rule."""
    image_pull_secrets: Annotated[list[Name], Field(max_length=16)] = Field([])
    """Names of Secrets of this namespace to pull the image with."""
    model: ModelSpec
    """What is served."""
    pools: Annotated[list[PoolSpec], Field(min_length=1, max_length=16), *by_key("name")]
    """The workers: pools of role prefill and of role decode, or pools of role any."""
    transport: TransportSpec = TransportSpec()
    """How KV goes from worker to worker; by default TCP, which works everywhere."""
    routing: RoutingSpec = RoutingSpec()
    """Which worker gets a request."""
    slo: SloSpec | None = None
    """Objectives for latency; unset measures against none."""
    tenants: Annotated[list[Tenant], Field(max_length=256), *by_key("name")] = Field([])
    """Tenants whose share of the workers is not 1."""
    tiers: TiersSpec = TiersSpec()
    """Copies of cached KV blocks below the GPU's memory; by default none."""
    store: StoreSpec = StoreSpec()
    """Where workers are found; by default the Redis that the chart brings."""
    gateway: GatewaySpec = GatewaySpec()
    """The HTTP and gRPC front."""
    rollout: RolloutSpec = RolloutSpec()
    """How a new revision takes over."""
    security: SecuritySpec = SecuritySpec()
    """What proves who is who between the service's own pods."""

    rules = (
        Rule(
            "!self.pools.exists(p, p.role == 'prefill') || "
            "self.pools.exists(p, p.role == 'decode')",
            "a prefill pool needs a decode pool to hand its KV to: add one with role decode, or "
            "give all pools role any",
            lambda s: "prefill" not in s.roles or "decode" in s.roles,
        ),
        Rule(
            "!self.pools.exists(p, p.role == 'decode') || "
            "self.pools.exists(p, p.role == 'prefill')",
            "a decode pool needs a prefill pool: add one with role prefill, or give all pools role "
            "any, which computes prompts, too",
            lambda s: "decode" not in s.roles or "prefill" in s.roles,
        ),
        Rule(
            "self.pools.all(p, p.role == 'any') || self.pools.all(p, p.role != 'any')",
            "pools of role any stand alone: give all pools role any, or none",
            lambda s: "any" not in s.roles or s.roles == {"any"},
        ),
        Rule(
            "self.pools.all(p, p.engine.blockSize == self.pools[0].engine.blockSize)",
            "engine.blockSize has to be the same in all pools: blocks are handed from one to the "
            "other",
            lambda s: len({pool.engine.block_size for pool in s.pools}) == 1,
        ),
        Rule(
            "self.pools.all(p, p.engine.kind == self.pools[0].engine.kind)",
            "engine.kind has to be the same in all pools: a mock engine hands over no real KV",
            lambda s: len({pool.engine.kind for pool in s.pools}) == 1,
        ),
        Rule(
            "self.routing.disaggregation != 'always' || self.pools.exists(p, p.role == 'prefill')",
            "routing.disaggregation always needs a prefill pool: set auto, or add pools of role "
            "prefill and decode",
            lambda s: s.routing.disaggregation != "always" or "prefill" in s.roles,
        ),
    )

    @property
    def roles(self) -> set[Role]:
        """Roles of all pools."""
        return {pool.role for pool in self.pools}

    def pool(self, name: str) -> PoolSpec | None:
        """The pool of that name, if there is one."""
        return next((pool for pool in self.pools if pool.name == name), None)


class ModelService(Ruled, StatusPart):
    """One model, served by pools of workers behind gateways."""

    api_version: str = API_VERSION
    kind: str = SERVICE_KIND
    metadata: ObjectMeta
    spec: ModelServiceSpec
    """What is wanted."""
    status: ModelServiceStatus = ModelServiceStatus()
    """What the operator saw."""

    rules = (
        Rule(
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && "
            f"self.metadata.name.size() <= {MAX_SERVICE_NAME}",
            f"metadata.name: take at most {MAX_SERVICE_NAME} lower-case letters, digits and "
            "dashes, a letter first: it becomes part of the names of Services and pods",
            lambda s: (
                re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", s.metadata.name) is not None
                and len(s.metadata.name) <= MAX_SERVICE_NAME
            ),
        ),
    )
