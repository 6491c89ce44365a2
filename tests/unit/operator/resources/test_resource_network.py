"""NetworkPolicies: each pod talks to whom it needs, and to nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from baton_operator import names
from baton_operator.resources.context import Context
from baton_operator.resources.network_policies import network_policies
from fakes.model_services import context_of

PER_POD = {"model": {"source": "org/model"}}
SHARED = {"model": {"source": "org/model", "cache": {"type": "NewClaim", "size": "9Gi"}}}


def policy(context: Context, component: str) -> dict[str, Any]:
    (found,) = [
        each
        for each in network_policies(context)
        if each["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == component
    ]
    spec: dict[str, Any] = found["spec"]
    return spec


def ports(rule: dict[str, Any]) -> set[Any]:
    return {each["port"] for each in rule.get("ports", [])}


def egress_anywhere(spec: dict[str, Any]) -> set[int]:
    """Ports that may be reached wherever they are."""
    return {port for rule in spec["egress"] if "to" not in rule for port in ports(rule)}


def test_workers_let_in_their_gateways_each_other_and_probes() -> None:
    gateways, workers, anybody = policy(context_of(), "worker")["ingress"]
    assert gateways["from"] == [
        {
            "podSelector": {
                "matchLabels": {
                    "baton.dev/service": "demo",
                    "app.kubernetes.io/component": "gateway",
                }
            }
        }
    ]
    assert ports(gateways) == {8082}
    assert [
        each["podSelector"]["matchLabels"]["baton.dev/service"] for each in workers["from"]
    ] == ["demo"]
    assert "ports" not in workers
    assert "from" not in anybody and ports(anybody) == {8081}


def test_gateways_let_everybody_in_at_their_two_ports() -> None:
    (rule,) = policy(context_of(), "gateway")["ingress"]
    assert "from" not in rule and ports(rule) == {8000, 9000}


def test_gateways_reach_their_workers_at_one_port() -> None:
    to_pods = [rule for rule in policy(context_of(), "gateway")["egress"] if "to" in rule]
    assert [ports(rule) for rule in to_pods] == [{8082}, {6379}]


@pytest.mark.parametrize("component", ["worker", "gateway"])
def test_the_internet_is_for_those_who_download(component: str) -> None:
    assert egress_anywhere(policy(context_of(), component)) == {53}
    assert egress_anywhere(policy(context_of(SHARED), component)) == {53}
    assert egress_anywhere(policy(context_of(PER_POD), component)) == {53, 80, 443}


def test_what_fetches_is_asked_how_far_it_is_and_nothing_else() -> None:
    spec = policy(context_of(SHARED), "fetch")
    asked = {"protocol": "TCP", "port": names.WORKER_HEALTH_PORT}
    assert spec["ingress"] == [{"ports": [asked]}] and egress_anywhere(spec) == {53, 80, 443}
    assert len(network_policies(context_of())) == 2


@pytest.mark.parametrize(
    ("redis", "expected"),
    [
        ({"url": "redis://redis.data/0"}, {6379}),
        ({"url": "rediss://redis.data:6380/3", "secret": {"name": "r"}}, {6380}),
        ({"sentinel": {"master": "m", "addresses": ["a:26379", "b:5000"]}}, {5000, 6379, 26379}),
        ({"cluster": {"addresses": ["a:7000", "b:7001"]}}, {7000, 7001}),
    ],
)
def test_a_store_of_the_users_is_reached_at_its_ports(
    redis: dict[str, Any], expected: set[int]
) -> None:
    context = context_of({"store": {"redis": redis}})
    for component in ("worker", "gateway"):
        assert egress_anywhere(policy(context, component)) == {53} | expected


def test_an_address_that_only_a_secret_knows_may_be_anywhere() -> None:
    spec = policy(context_of({"store": {"redis": {"secret": {"name": "r"}}}}), "worker")
    assert {"ports": [{"protocol": "TCP", "port": 1, "endPort": 65535}]} in spec["egress"]


def test_the_bundled_store_is_a_pod_of_the_chart() -> None:
    (rule,) = [each for each in policy(context_of(), "worker")["egress"] if ports(each) == {6379}]
    assert rule["to"] == [
        {
            "namespaceSelector": {},
            "podSelector": {"matchLabels": {"app.kubernetes.io/component": "redis"}},
        }
    ]
