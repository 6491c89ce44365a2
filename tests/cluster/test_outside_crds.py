"""Kinds of the Gateway API and of the Prometheus operator, under the schemas of their projects.

The tests go in their order: without the CRDs, then with them, then without them again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
import yaml

from baton_operator import names
from cluster.baton_objects import EXAMPLES, ROOT, Manifest, install_crds
from cluster.cluster import Cluster, eventually
from cluster.host_gateway import HostGateway
from cluster.operator_services import condition, service, wait_for
from cluster.operator_under_test import PATIENT, Operator, chart_rules
from cluster.outside_crds import outside_crds

# Each waits for the operator's looks for CRDs, beside all else a busy machine does.
# Resources by which kubectl and the audit log know them.
ROUTES = ("httproutes", "grpcroutes")
MONITORS = ("podmonitors", "servicemonitors")
OF_CHAT = f"{names.LABEL_SERVICE}=chat"
# The operator looks for CRDs every 3 s.
NOTICED_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def operator(cluster: Cluster) -> Iterator[Operator]:
    """One that serves all namespaces; at the end it has asked for nothing that is forbidden."""
    install_crds(cluster)
    with HostGateway() as gateway, cluster.kwok_nodes(2), cluster.namespace() as home:
        operator = Operator(cluster, home, None, gateway)
        operator.start(monitors=True, **PATIENT)
        yield operator
        operator.stop_all()
        assert operator.forbidden() == []


@pytest.fixture(scope="module")
def early(cluster: Cluster) -> Iterator[str]:
    """A namespace with a service that is older than the CRDs."""
    with cluster.namespace() as name:
        cluster.apply(service(gateway=gateway()), namespace=name)
        yield name


@pytest.fixture(scope="module")
def crds(cluster: Cluster, early: str) -> Iterator[contextlib.ExitStack]:
    """Closing it removes them."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(outside_crds(cluster, "gateway-api", "prometheus-operator"))
        yield stack


def gateway(**more: Any) -> Manifest:
    """With both routes, to two listeners of one Gateway of another namespace."""
    parents = [{"name": "public", "namespace": "gateways", "sectionName": "https"}]
    return {
        "httpRoute": {"parentRefs": parents, "hostnames": ["llm.example.com"]},
        "grpcRoute": {"parentRefs": parents, "hostnames": ["*.grpc.example.com"]},
        **more,
    }


def one(cluster: Cluster, namespace: str, kind: str, within_s: float = 30) -> Manifest:
    """The service's only object of a kind, which the service owns."""
    [each] = eventually(lambda: cluster.get_all(kind, namespace, OF_CHAT), within_s=within_s)
    [owner] = each["metadata"]["ownerReferences"]
    owning = cluster.get("modelservice", "chat", namespace)
    assert owning is not None
    assert owner["controller"]
    assert (owner["kind"], owner["uid"]) == (names.SERVICE_KIND, owning["metadata"]["uid"])
    return each


def selected(cluster: Cluster, namespace: str, kind: str, monitor: Manifest) -> list[Manifest]:
    labels: dict[str, str] = monitor["spec"]["selector"]["matchLabels"]
    return cluster.get_all(kind, namespace, names.selector_text(labels))


def named(objects: list[Manifest]) -> set[str]:
    return {each["metadata"]["name"] for each in objects}


def test_without_the_crds_it_serves_and_says_what_is_missing(cluster: Cluster, early: str) -> None:
    wait_for(cluster, early, "Ready", "True")
    degraded = wait_for(cluster, early, "Degraded", "True")
    assert degraded["reason"] == "GatewayApiMissing"
    assert "install the Gateway API" in degraded["message"]


def test_crds_that_come_later_are_noticed(
    cluster: Cluster, early: str, crds: contextlib.ExitStack
) -> None:
    for kind in (*ROUTES, *MONITORS):
        one(cluster, early, kind, NOTICED_S)
    wait_for(cluster, early, "Degraded", "False")
    assert condition(cluster, early, "Ready")["status"] == "True"


def test_routes_lead_to_ports_of_the_gateways_service(
    cluster: Cluster, early: str, crds: contextlib.ExitStack
) -> None:
    for kind, port_name, hostname in (
        ("httproutes", "http", "llm.example.com"),
        ("grpcroutes", "grpc", "*.grpc.example.com"),
    ):
        route = one(cluster, early, kind)
        [parent] = route["spec"]["parentRefs"]
        # The schema's defaults: had they another meaning, the route would attach to nothing.
        assert (parent["group"], parent["kind"]) == ("gateway.networking.k8s.io", "Gateway")
        assert (parent["namespace"], parent["name"]) == ("gateways", "public")
        assert parent["sectionName"] == "https"
        assert route["spec"]["hostnames"] == [hostname]
        [rule] = route["spec"]["rules"]
        [backend] = rule["backendRefs"]
        assert (backend["group"], backend["kind"], backend["weight"]) == ("", "Service", 1)
        target = cluster.get("service", backend["name"], early)
        assert target is not None
        ports = {each["port"]: each for each in target["spec"]["ports"]}
        assert ports[backend["port"]]["name"] == port_name
        gateways = names.selector_text(target["spec"]["selector"])
        assert len(cluster.get_all("pods", early, gateways)) == 2


def test_pod_monitor_picks_all_workers_and_nothing_else(
    cluster: Cluster, early: str, crds: contextlib.ExitStack
) -> None:
    monitor = one(cluster, early, "podmonitors")
    pods = selected(cluster, early, "pods", monitor)
    assert named(pods) == named(
        cluster.get_all("pods", early, f"{names.LABEL_POOL} in (prefill,decode)")
    )
    assert len(pods) == 3
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    for pod in pods:
        ports = [
            port["name"] for container in pod["spec"]["containers"] for port in container["ports"]
        ]
        assert ports.count(endpoint["port"]) == 1
        assert set(monitor["spec"]["podTargetLabels"]) <= set(pod["metadata"]["labels"])


def test_service_monitor_picks_the_gateways_service_and_so_each_gateway(
    cluster: Cluster, early: str, crds: contextlib.ExitStack
) -> None:
    monitor = one(cluster, early, "servicemonitors")
    [target] = selected(cluster, early, "services", monitor)
    assert target["metadata"]["name"] == names.gateway("chat")
    [endpoint] = monitor["spec"]["endpoints"]
    slices = cluster.get_all(
        "endpointslices", early, f"kubernetes.io/service-name={target['metadata']['name']}"
    )
    behind = {
        each["targetRef"]["name"]
        for found in slices
        if endpoint["port"] in [port["name"] for port in found["ports"]]
        for each in found["endpoints"]
    }
    assert behind == named(
        cluster.get_all("pods", early, f"{OF_CHAT},{names.LABEL_COMPONENT}=gateway")
    )
    assert len(behind) == 2


def test_what_the_schemas_default_is_not_written_again(
    cluster: Cluster, early: str, operator: Operator, crds: contextlib.ExitStack
) -> None:
    def writes() -> dict[str, int]:
        # Not what is refused: a namespace of a test before may be on its way out still.
        done = [
            resource
            for verb, resource, code in operator.requests()
            if verb == "patch" and code in (HTTPStatus.OK, HTTPStatus.CREATED)
        ]
        return {kind: done.count(kind) for kind in (*ROUTES, *MONITORS)}

    before = writes()
    assert all(before.values()), before
    # A round that has something to do tells the end of one that looked at all of it.
    cluster.apply(service(gateway=gateway(replicas=3)), namespace=early)
    eventually(lambda: _observed(cluster, early))
    assert writes() == before


def _observed(cluster: Cluster, namespace: str) -> bool:
    found = cluster.get("modelservice", "chat", namespace)
    assert found is not None
    current: bool = found["status"]["observedGeneration"] == found["metadata"]["generation"]
    return current


def test_a_route_follows_the_service_is_taken_back_and_goes(
    cluster: Cluster, early: str, crds: contextlib.ExitStack
) -> None:
    changed = gateway()
    changed["httpRoute"]["hostnames"] = ["other.example.com"]
    cluster.apply(service(gateway=changed), namespace=early)

    def hostnames() -> list[str]:
        found: list[str] = one(cluster, early, "httproutes")["spec"]["hostnames"]
        return found

    eventually(lambda: hostnames() == ["other.example.com"])
    name = names.gateway("chat")
    theirs = '{"spec": {"hostnames": ["stolen.example.com"]}}'
    cluster.kubectl("patch", "httproute", name, "-n", early, "--type=merge", "-p", theirs)
    eventually(lambda: hostnames() == ["other.example.com"])
    cluster.apply(service(), namespace=early)
    for kind in ROUTES:
        eventually(lambda kind=kind: not cluster.get_all(kind, early))
    cluster.apply(service(gateway=gateway()), namespace=early)
    one(cluster, early, "httproutes")


def test_what_the_schema_refuses_is_told_and_mended(
    cluster: Cluster, namespace: str, crds: contextlib.ExitStack
) -> None:
    twice = {"parentRefs": [{"name": "public"}, {"name": "public"}]}
    cluster.apply(service(gateway={"httpRoute": twice}), namespace=namespace)
    degraded = wait_for(cluster, namespace, "Degraded", "True")
    assert degraded["reason"] == "Invalid"
    assert "sectionName" in degraded["message"]
    wait_for(cluster, namespace, "Ready", "True")
    twice["parentRefs"].pop()
    cluster.apply(service(gateway={"httpRoute": twice}), namespace=namespace)
    wait_for(cluster, namespace, "Degraded", "False")
    one(cluster, namespace, "httproutes")


def test_the_example_of_the_gateway_api_gets_its_routes(
    cluster: Cluster, namespace: str, crds: contextlib.ExitStack
) -> None:
    example = yaml.safe_load((EXAMPLES / "gateway-api.yaml").read_text(encoding="utf-8"))
    example["spec"]["store"] = service()["spec"]["store"]
    cluster.apply(example, namespace=namespace)
    for kind in ROUTES:
        eventually(lambda kind=kind: cluster.get_all(kind, namespace))


def test_the_operators_own_monitor_picks_its_service(
    cluster: Cluster, namespace: str, crds: contextlib.ExitStack
) -> None:
    rendered = cluster.helm(
        *("template", "baton", str(ROOT / "deploy/helm/baton"), "-n", namespace),
        *("--set", "metrics.serviceMonitor.enabled=true"),
        *("--set", "metrics.serviceMonitor.labels.release=prometheus"),
    )
    objects = [each for each in yaml.safe_load_all(rendered) if each]
    [monitor] = [each for each in objects if each["kind"] == "ServiceMonitor"]
    services = [
        each
        for each in objects
        if each["kind"] == "Service" and each["metadata"]["namespace"] == namespace
    ]
    strict = ("apply", "--server-side", "--validate=strict", "-n", namespace, "-f", "-")
    cluster.kubectl(*strict, stdin=yaml.safe_dump_all([monitor, *services]))
    applied = cluster.get("servicemonitor", monitor["metadata"]["name"], namespace)
    assert applied is not None
    assert applied["metadata"]["labels"]["release"] == "prometheus"
    [endpoint] = applied["spec"]["endpoints"]
    [target] = selected(cluster, namespace, "services", applied)
    assert target["metadata"]["name"] == "baton-operator"
    [deployment] = [
        each
        for each in objects
        if each["kind"] == "Deployment" and each["metadata"]["name"] == "baton-operator"
    ]
    pods = deployment["spec"]["template"]
    assert target["spec"]["selector"].items() <= pods["metadata"]["labels"].items()
    [port] = [each for each in target["spec"]["ports"] if each["name"] == endpoint["port"]]
    [container] = pods["spec"]["containers"]
    assert port["targetPort"] in [each["name"] for each in container["ports"]]


def test_monitors_go_when_the_installation_wants_them_no_more(
    cluster: Cluster, early: str, operator: Operator, crds: contextlib.ExitStack
) -> None:
    operator.stop()
    operator.start(monitors=False, **PATIENT)
    for kind in MONITORS:
        eventually(lambda kind=kind: not cluster.get_all(kind, early), within_s=60)
    assert condition(cluster, early, "Ready")["status"] == "True"


def test_crds_that_go_are_noticed_and_nothing_else_is_touched(
    cluster: Cluster, early: str, crds: contextlib.ExitStack
) -> None:
    pods = named(cluster.get_all("pods", early))
    crds.close()
    # Until then it tries to make them again, and is told that there is no such kind.
    eventually(
        lambda: condition(cluster, early, "Degraded")["reason"] == "GatewayApiMissing", NOTICED_S
    )
    assert condition(cluster, early, "Ready")["status"] == "True"
    assert named(cluster.get_all("pods", early)) == pods


def test_each_right_to_these_kinds_is_used(operator: Operator) -> None:
    """After all of the above."""
    used = {(verb, resource) for verb, resource, _ in operator.requests()}
    granted = {
        (verb, resource)
        for rule in chart_rules()
        for resource in {*ROUTES, *MONITORS} & set(rule["resources"])
        for verb in rule["verbs"]
    }
    assert len(granted) == 20
    # Server-side apply is a patch; that it needs the right to create, too, is not on record.
    applied = {("create", resource) for verb, resource in used if verb == "patch"}
    assert granted - used - applied == set()
