"""The front of a service: replicas, exposure, end of streams."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from baton_operator.types.base import Part, Rule
from baton_operator.types.pod_template import PodTemplate, Resources
from baton_operator.types.scalars import Host, Name, StringMap


class GatewayService(Part):
    """The Service in front of the gateways."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """ClusterIP is reached from inside the cluster only."""
    annotations: StringMap = Field({})
    """For load balancers of clouds."""


class GatewayTls(Part):
    """TLS at the gateway itself."""

    secret_name: Name
    """Secret of type kubernetes.io/tls in this namespace."""


class IngressSpec(Part):
    """An Ingress for the HTTP API."""

    class_name: Name | None = None
    """IngressClass; unset takes the cluster's default."""
    host: Host
    """DNS name that clients use."""
    annotations: StringMap = Field({})
    """For the controller, for instance time limits of streams."""
    tls_secret: Name | None = None
    """Secret with the certificate; unset serves plain HTTP."""


class ParentRef(Part):
    """A Gateway of the Gateway API."""

    name: Name
    """Name of the Gateway."""
    namespace: Name | None = None
    """Namespace of the Gateway, which has to allow routes from here; unset means this one. Nothing
    else in a ModelService refers to another namespace."""
    section_name: Name | None = None
    """One listener of it; unset attaches to all that fit."""
    port: int | None = Field(None, ge=1, le=65535)
    """Listeners on this port only; unset attaches to any."""

    def may_share_listener(self, other: ParentRef) -> bool:
        """Whether both may attach to one listener."""
        return (
            (self.name, self.namespace) == (other.name, other.namespace)
            and _may_be_same(self.section_name, other.section_name)
            and _may_be_same(self.port, other.port)
        )


class RouteSpec(Part):
    """An HTTPRoute or GRPCRoute."""

    parent_refs: Annotated[list[ParentRef], Field(min_length=1, max_length=8)]
    """Gateways that it attaches to."""
    hostnames: Annotated[list[Host], Field(max_length=16)] = Field([])
    """DNS names that clients use; empty takes the listeners'."""


class GatewayAutoscaling(Part):
    """A HorizontalPodAutoscaler for the gateways."""

    min_replicas: int = Field(2, ge=1, le=1000)
    """Fewest gateways; 2 outlives the loss of one."""
    max_replicas: int = Field(ge=1, le=1000)
    """Most gateways."""
    target_cpu_percent: int = Field(70, ge=1, le=100, alias="targetCPUPercent")
    """CPU use to aim at, in percent of the request; below 100 so that bursts find room."""

    rules = (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            "gateway.autoscaling: maxReplicas has to be at least minReplicas",
            lambda a: a.min_replicas <= a.max_replicas,
        ),
    )


class GatewaySpec(Part):
    """The HTTP and gRPC front."""

    replicas: int = Field(2, ge=0, le=1000)
    """Gateway pods, unless autoscaling; 2 outlives the loss of one."""
    resources: Resources = Resources()
    """What each gateway asks for; by default the operator's own choice."""
    auth: Literal["auto", "keys", "off"] = "auto"
    """Whether clients need an API key. auto: as soon as there are keys."""
    service: GatewayService = GatewayService()
    """The Service in front of the gateways."""
    tls: GatewayTls | None = None
    """TLS at the gateway itself; unset speaks plain HTTP inside the cluster."""
    ingress: IngressSpec | None = None
    """An Ingress for the HTTP API; unset makes none."""
    http_route: RouteSpec | None = None
    """An HTTPRoute for the HTTP API; unset makes none."""
    grpc_route: RouteSpec | None = None
    """A GRPCRoute for the gRPC API; unset makes none."""
    autoscaling: GatewayAutoscaling | None = None
    """An autoscaler for the gateways; unset keeps replicas."""
    drain_timeout_seconds: int = Field(60, ge=0, le=86400)
    """Seconds that open streams of a stopping gateway get."""
    pod_template: PodTemplate = PodTemplate()
    """Merged over each gateway pod."""

    rules = (
        Rule(
            "!has(self.autoscaling) || !has(self.resources.requests) || "
            "self.resources.requests.size() == 0 || 'cpu' in self.resources.requests",
            "gateway.autoscaling goes by CPU: add cpu to gateway.resources.requests",
            lambda g: (
                g.autoscaling is None or not g.resources.requests or "cpu" in g.resources.requests
            ),
        ),
        Rule(
            "!has(self.httpRoute) || !has(self.grpcRoute) || "
            "!self.httpRoute.parentRefs.exists(p, self.grpcRoute.parentRefs.exists(q, "
            "p.name == q.name && "
            "(has(p.__namespace__) ? p.__namespace__ : '') == "
            "(has(q.__namespace__) ? q.__namespace__ : '') && "
            "(!has(p.sectionName) || !has(q.sectionName) || p.sectionName == q.sectionName) && "
            "(!has(p.port) || !has(q.port) || p.port == q.port))) || "
            "(has(self.httpRoute.hostnames) && has(self.grpcRoute.hostnames) && "
            "self.httpRoute.hostnames.size() > 0 && self.grpcRoute.hostnames.size() > 0 && "
            "!self.httpRoute.hostnames.exists(h, h in self.grpcRoute.hostnames))",
            "gateway: an HTTPRoute and a GRPCRoute on one listener need hostnames that differ",
            lambda g: not _routes_clash(g.http_route, g.grpc_route),
        ),
    )


def _may_be_same(one: str | int | None, other: str | int | None) -> bool:
    return one is None or other is None or one == other


def _routes_clash(http: RouteSpec | None, grpc: RouteSpec | None) -> bool:
    if http is None or grpc is None:
        return False
    if not any(p.may_share_listener(q) for p in http.parent_refs for q in grpc.parent_refs):
        return False
    apart = http.hostnames and grpc.hostnames and not set(http.hostnames) & set(grpc.hostnames)
    return not apart
