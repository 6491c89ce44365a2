"""templates/operator/{networkpolicy,service,servicemonitor,pdb}.yaml: it should ..."""

from __future__ import annotations

import pytest

from baton_operator import names
from unit.chart.rendering import CHART, Chart

pytestmark = pytest.mark.helm
NAME = "rel-baton-operator"


def test_policy_should_let_in_metrics_and_probes_alone(chart: Chart) -> None:
    spec = chart.get("NetworkPolicy", NAME)["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    assert spec["ingress"] == [{"ports": [{"port": 8080}, {"port": 8081}]}]


def test_policy_should_let_out_to_services_of_every_namespace_where_egress_is_restricted(
    chart: Chart,
) -> None:
    spec = chart.get("NetworkPolicy", NAME, "operator.networkPolicy.restrictEgress=true")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    allowed = {tuple(p["port"] for p in rule["ports"]): rule.get("to") for rule in spec["egress"]}
    assert allowed.keys() == {(53, 53), (443, 6443), (8000,), (8081,), (6379,)}
    for component, port in (
        ("gateway", names.GATEWAY_HTTP_PORT),
        ("worker", names.WORKER_HEALTH_PORT),
    ):
        (peer,) = allowed[port,]
        assert peer["namespaceSelector"] == {}
        labels = names.labels("any", component)  # type: ignore[arg-type]
        assert peer["podSelector"]["matchLabels"].items() <= labels.items()


def test_policy_should_stay_in_the_namespace_that_is_served(chart: Chart) -> None:
    sets = ("operator.networkPolicy.restrictEgress=true", "operator.namespaced=true")
    for name in (NAME, "rel-baton-redis"):
        assert "namespaceSelector" not in str(chart.get("NetworkPolicy", name, *sets))


def test_policy_should_be_left_out_when_off(chart: Chart) -> None:
    assert chart.find("NetworkPolicy", NAME, "operator.networkPolicy.enabled=false") is None


def test_service_should_reach_the_metrics_of_the_operator_alone(chart: Chart) -> None:
    spec = chart.get("Service", NAME)["spec"]
    template = chart.get("Deployment", NAME)["spec"]["template"]
    assert spec["selector"].items() <= template["metadata"]["labels"].items()
    assert spec["selector"]["app.kubernetes.io/component"] == "operator"
    assert [(port["port"], port["targetPort"]) for port in spec["ports"]] == [(8080, "metrics")]


def test_monitor_should_pick_the_service_when_on(chart: Chart) -> None:
    assert chart.find("ServiceMonitor", NAME) is None
    monitor = chart.get("ServiceMonitor", NAME, values=CHART / "ci/everything-values.yaml")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    service = chart.get("Service", NAME)
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


def test_budget_should_be_there_with_two_operators(chart: Chart) -> None:
    assert chart.find("PodDisruptionBudget", NAME) is None
    budget = chart.get("PodDisruptionBudget", NAME, "operator.replicas=2")
    assert budget["spec"]["maxUnavailable"] == 1
    off = ("operator.replicas=2", "operator.podDisruptionBudget.enabled=false")
    assert chart.find("PodDisruptionBudget", NAME, *off) is None
