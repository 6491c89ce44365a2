"""Who may talk to whom: what a service's pods need, and nothing else.

Policies add up, so a user who needs more (a proxy, a mirror of the hub) makes one of their own.
They do not hold for pods on the node's network.
"""

from __future__ import annotations

from baton_operator import names
from baton_operator.resources.context import Context, Manifest
from baton_operator.resources.metadata import metadata
from baton_operator.resources.pods import model_cache
from baton_operator.resources.pods.store_login import store_ports

_DNS: Manifest = {
    # Wherever it is: a Service, or a cache on the node's own address.
    "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]
}
_INTERNET: Manifest = {"ports": [{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 80}]}


def network_policies(context: Context) -> list[Manifest]:
    """For workers, for gateways, and for the Job that downloads, where there is one."""
    policies = [_for_workers(context), _for_gateways(context)]
    if context.spec.model.needs_fetch:
        policies.append(_for_fetch(context))
    return policies


def _for_workers(context: Context) -> Manifest:
    """Gateways come to one port. Among themselves workers move KV, on ports that UCX takes."""
    gateways = _pods(context, "gateway")
    workers = _pods(context, "worker")
    return _policy(
        context,
        names.workers(context.name),
        "worker",
        ingress=[
            {"from": [gateways], "ports": [_tcp(names.WORKER_PORT)]},
            {"from": [workers]},
            # Kubelets and Prometheus, wherever they are.
            {"ports": [_tcp(names.WORKER_HEALTH_PORT)]},
        ],
        egress=[_DNS, {"to": [workers]}, _store(context), *_hub(context)],
    )


def _for_gateways(context: Context) -> Manifest:
    to_workers = {"to": [_pods(context, "worker")], "ports": [_tcp(names.WORKER_PORT)]}
    return _policy(
        context,
        names.gateway(context.name),
        "gateway",
        ingress=[{"ports": [_tcp(names.GATEWAY_HTTP_PORT), _tcp(names.GATEWAY_GRPC_PORT)]}],
        egress=[_DNS, to_workers, _store(context), *_hub(context)],
    )


def _for_fetch(context: Context) -> Manifest:
    return _policy(
        context,
        names.joined(context.name, "fetch"),
        "fetch",
        # The operator asks how far it is.
        ingress=[{"ports": [_tcp(names.WORKER_HEALTH_PORT)]}],
        egress=[_DNS, _INTERNET],
    )


def _policy(
    context: Context,
    name: str,
    component: names.Component,
    *,
    ingress: list[Manifest],
    egress: list[Manifest],
) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(context, name, component),
        "spec": {
            "podSelector": {"matchLabels": names.selector(context.name, component)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        },
    }


def _store(context: Context) -> Manifest:
    """Egress to the store. A Redis of the user's may be anywhere."""
    ports = store_ports(context)
    if ports is None:
        # Only the user's Secret knows, which the operator does not read.
        return {"ports": [{"protocol": "TCP", "port": 1, "endPort": 65535}]}
    rule: Manifest = {"ports": [_tcp(port) for port in ports]}
    if context.spec.store.bundled:
        rule["to"] = [
            {
                "namespaceSelector": {},
                "podSelector": {"matchLabels": {names.LABEL_COMPONENT: "redis"}},
            }
        ]
    return rule


def _hub(context: Context) -> list[Manifest]:
    return [] if model_cache.is_offline(context) else [_INTERNET]


def _pods(context: Context, component: names.Component) -> Manifest:
    return {"podSelector": {"matchLabels": names.selector(context.name, component)}}


def _tcp(port: int) -> Manifest:
    return {"protocol": "TCP", "port": port}
