"""How a service is reached, scaled, kept up and watched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from baton_operator import names
from baton_operator.resources.autoscaling import gateway_autoscaler
from baton_operator.resources.context import Context
from baton_operator.resources.disruption import gateway_budget, pool_budget
from baton_operator.resources.exposure import gateway_service, ingress, routes
from baton_operator.resources.monitors import monitors
from baton_operator.resources.service_accounts import service_accounts
from baton_operator.resources.shared import children
from baton_operator.resources.worker_pool import worker_pool
from fakes.model_services import INSTALLATION, UID, context_of

GATE = {"name": "gate", "namespace": "infra", "sectionName": "https", "port": 443}


def gateway(**spec: Any) -> Context:
    return context_of({"gateway": spec})


def test_the_service_offers_http_and_grpc() -> None:
    spec = gateway_service(context_of())["spec"]
    assert spec["type"] == "ClusterIP"
    assert [(each["name"], each["port"], each["targetPort"]) for each in spec["ports"]] == [
        *(("http", 8000, "http"), ("grpc", 9000, "grpc"))
    ]


def test_clouds_read_their_annotations() -> None:
    found = gateway_service(gateway(service={"type": "LoadBalancer", "annotations": {"a": "b"}}))
    assert found["metadata"]["annotations"] == {"a": "b"}
    assert found["spec"]["type"] == "LoadBalancer"


def test_an_ingress_is_made_where_one_is_asked_for() -> None:
    found = ingress(gateway(ingress={"host": "llm.example.com", "tlsSecret": "cert"}))
    assert found is not None
    (rule,) = found["spec"]["rules"]
    assert rule["host"] == "llm.example.com"
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": "demo-gateway", "port": {"name": "http"}}
    assert found["spec"]["tls"] == [{"hosts": ["llm.example.com"], "secretName": "cert"}]
    assert "ingressClassName" not in found["spec"]
    assert ingress(context_of()) is None


def test_routes_attach_to_gateways_of_other_namespaces() -> None:
    http = {"parentRefs": [GATE], "hostnames": ["llm.example.com"]}
    grpc = {"parentRefs": [{"name": "gate"}], "hostnames": ["grpc.example.com"]}
    found = routes(gateway(httpRoute=http, grpcRoute=grpc))
    assert [each["kind"] for each in found] == ["HTTPRoute", "GRPCRoute"]
    assert found[0]["spec"]["parentRefs"] == [GATE]
    assert found[1]["spec"]["parentRefs"] == [{"name": "gate"}]
    assert [each["spec"]["rules"][0]["backendRefs"][0]["port"] for each in found] == [8000, 9000]
    assert routes(context_of()) == []


def test_gateways_scale_by_cpu_where_asked() -> None:
    scaled = gateway(autoscaling={"minReplicas": 3, "maxReplicas": 9, "targetCPUPercent": 60})
    found = gateway_autoscaler(scaled)
    assert found is not None
    assert found["spec"]["scaleTargetRef"]["name"] == "demo-gateway"
    assert (found["spec"]["minReplicas"], found["spec"]["maxReplicas"]) == (3, 9)
    target = found["spec"]["metrics"][0]["resource"]["target"]
    assert target == {"type": "Utilization", "averageUtilization": 60}
    assert gateway_autoscaler(context_of()) is None


def test_evictions_take_one_at_a_time_and_the_broken_at_once() -> None:
    context = context_of()
    budgets = [gateway_budget(context), *(pool_budget(context, p) for p in context.spec.pools)]
    assert [each["metadata"]["name"] for each in budgets] == [
        *("demo-gateway", "demo-prefill", "demo-decode")
    ]
    for each in budgets:
        assert each["spec"]["maxUnavailable"] == 1
        assert each["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    # Of every revision: a rollout must not double what may be evicted.
    assert "baton.dev/revision" not in budgets[1]["spec"]["selector"]["matchLabels"]


def test_monitors_are_made_where_wanted() -> None:
    def made(**changes: Any) -> list[str]:
        installation = replace(INSTALLATION, **changes)
        return [each["kind"] for each in monitors(context_of(installation=installation))]

    assert made() == ["PodMonitor", "ServiceMonitor"]
    assert made(monitors=False) == []


def test_accounts_give_no_access() -> None:
    found = service_accounts(context_of())
    assert [each["metadata"]["name"] for each in found] == ["demo-gateway", "demo-worker"]
    assert all(each["automountServiceAccountToken"] is False for each in found)


def test_a_pools_count_is_nobodys_but_its_writers() -> None:
    context = context_of()
    assert worker_pool(context, context.spec.pools[0])["spec"] == {
        "service": "demo",
        "pool": "prefill",
        "role": "prefill",
    }


def test_a_small_service_owns_just_this() -> None:
    found = [(each["kind"], each["metadata"]["name"]) for each in children(context_of())]
    assert sorted(found) == [
        ("ConfigMap", "demo-gateway"),
        ("Deployment", "demo-gateway"),
        ("NetworkPolicy", "demo-gateway"),
        ("NetworkPolicy", "demo-worker"),
        ("PodDisruptionBudget", "demo-decode"),
        ("PodDisruptionBudget", "demo-gateway"),
        ("PodDisruptionBudget", "demo-prefill"),
        ("PodMonitor", "demo-worker"),
        ("Secret", names.internal_secret("demo", UID)),
        ("Service", "demo-gateway"),
        ("ServiceAccount", "demo-gateway"),
        ("ServiceAccount", "demo-worker"),
        ("ServiceMonitor", "demo-gateway"),
        ("WorkerPool", "demo-decode"),
        ("WorkerPool", "demo-prefill"),
    ]
