"""How clients come to the gateways: Service, Ingress and routes of the Gateway API."""

from __future__ import annotations

from baton_operator import names
from baton_operator.resources.context import Context, Manifest
from baton_operator.resources.metadata import metadata
from baton_operator.types.gateway import RouteSpec


def gateway_service(context: Context) -> Manifest:
    """HTTP and gRPC of all ready gateways."""
    wanted, secure = context.spec.gateway.service, context.spec.gateway.tls is not None
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(
            context, names.gateway(context.name), "gateway", annotations=wanted.annotations
        ),
        "spec": {
            "type": wanted.type,
            "selector": names.selector(context.name, "gateway"),
            "ports": [
                # What meshes, routes and some Ingress controllers go by.
                _port("http", names.GATEWAY_HTTP_PORT, "https" if secure else "http"),
                _port("grpc", names.GATEWAY_GRPC_PORT, "grpc" if secure else "kubernetes.io/h2c"),
            ],
        },
    }


def ingress(context: Context) -> Manifest | None:
    """For the HTTP API, where one is wanted."""
    wanted = context.spec.gateway.ingress
    if wanted is None:
        return None
    backend = {"service": {"name": names.gateway(context.name), "port": {"name": "http"}}}
    spec: Manifest = {
        "rules": [
            {
                "host": wanted.host,
                "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
            }
        ]
    }
    if wanted.class_name is not None:
        spec["ingressClassName"] = wanted.class_name
    if wanted.tls_secret is not None:
        spec["tls"] = [{"hosts": [wanted.host], "secretName": wanted.tls_secret}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": metadata(
            context, names.gateway(context.name), "gateway", annotations=wanted.annotations
        ),
        "spec": spec,
    }


def routes(context: Context) -> list[Manifest]:
    """HTTPRoute and GRPCRoute, those that are wanted."""
    gateway = context.spec.gateway
    return [
        _route(context, kind, wanted, port)
        for kind, wanted, port in (
            ("HTTPRoute", gateway.http_route, names.GATEWAY_HTTP_PORT),
            ("GRPCRoute", gateway.grpc_route, names.GATEWAY_GRPC_PORT),
        )
        if wanted is not None
    ]


def _route(context: Context, kind: str, wanted: RouteSpec, port: int) -> Manifest:
    spec: Manifest = {
        "parentRefs": [
            each.model_dump(by_alias=True, exclude_none=True) for each in wanted.parent_refs
        ],
        "rules": [{"backendRefs": [{"name": names.gateway(context.name), "port": port}]}],
    }
    if wanted.hostnames:
        spec["hostnames"] = list(wanted.hostnames)
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": kind,
        "metadata": metadata(context, names.gateway(context.name), "gateway"),
        "spec": spec,
    }


def _port(name: str, number: int, protocol: str) -> Manifest:
    return {
        "name": name,
        "port": number,
        "targetPort": name,
        "protocol": "TCP",
        "appProtocol": protocol,
    }
