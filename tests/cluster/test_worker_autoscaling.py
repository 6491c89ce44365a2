"""Kubernetes' own autoscaler moves pools through their scale subresource, and the gateways.

It is the controller manager's, with metrics that the tests serve. The tests come late in the
alphabet since the controller manager looks for new kinds every 30 s.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from baton_operator import names
from cluster.baton_objects import EXAMPLES, Manifest
from cluster.cluster import Cluster, eventually
from cluster.host_gateway import HostGateway
from cluster.metrics_api import MetricsApi
from cluster.operator_services import service, wait_for

pytestmark = pytest.mark.usefixtures("operator")
KINDS_NOTICED_S = 60.0


@pytest.fixture(scope="module")
def metrics(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MetricsApi]:
    if cluster.audit_log is None:
        pytest.skip("the API server is of another host: it does not reach this one's metrics")
    with MetricsApi(cluster, tmp_path_factory.mktemp("metrics")) as metrics:
        yield metrics


def autoscaler(metric: Manifest, lowest: int, highest: int, **behavior: Any) -> Manifest:
    """Of the pool decode of the service chat."""
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "decode"},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": names.API_VERSION,
                "kind": names.POOL_KIND,
                "name": names.worker_pool("chat", "decode"),
            },
            "minReplicas": lowest,
            "maxReplicas": highest,
            "metrics": [metric],
            "behavior": behavior,
        },
    }


def pods(cluster: Cluster, namespace: str, selector: str) -> list[str]:
    found = cluster.get_all("pods", namespace, selector)
    return [
        each["metadata"]["name"] for each in found if "deletionTimestamp" not in each["metadata"]
    ]


def decode_pods(cluster: Cluster, namespace: str) -> list[str]:
    return pods(cluster, namespace, f"{names.LABEL_POOL}=decode")


def wait_for_pods(cluster: Cluster, namespace: str, count: int) -> None:
    eventually(
        lambda: len(decode_pods(cluster, namespace)) == count,
        within_s=KINDS_NOTICED_S,
        every_s=0.5,
    )


def wait_until_seen(cluster: Cluster, namespace: str) -> None:
    """The operator's status is about the service as it is now, and all of it is there."""

    def seen() -> bool:
        found = cluster.get("modelservice", "chat", namespace)
        assert found is not None
        status = found["status"]
        return status["observedGeneration"] == found["metadata"]["generation"] and all(
            (each["type"], each["status"]) != ("Progressing", "True")
            for each in status["conditions"]
        )

    eventually(seen, within_s=90, every_s=0.3)


def replicas(cluster: Cluster, namespace: str, kind: str, name: str) -> int:
    found = cluster.get(kind, name, namespace)
    assert found is not None
    count: int = found["spec"]["replicas"]
    return count


def test_the_fewest_replicas_of_an_autoscaler_hold_without_any_metric(
    cluster: Cluster, namespace: str
) -> None:
    cluster.apply(service(), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
    metric = {"type": "Resource", "resource": cpu}
    cluster.apply(autoscaler(metric, 4, 8), namespace=namespace)
    wait_for_pods(cluster, namespace, 4)
    # A change of another field writes the pool without its count.
    cluster.apply(service(image="example/one:2"), namespace=namespace)
    wait_until_seen(cluster, namespace)
    assert replicas(cluster, namespace, "workerpool", "chat-decode") == 4


def test_a_pool_follows_an_external_metric_up_and_down(
    cluster: Cluster, namespace: str, gateway: HostGateway, metrics: MetricsApi
) -> None:
    queued = {"metric": {"name": "queued"}, "target": {"type": "AverageValue", "averageValue": 10}}
    metrics.external[namespace, "queued"] = 20
    cluster.apply(service(), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")
    uid = cluster.get("modelservice", "chat", namespace)["metadata"]["uid"]  # type: ignore[index]
    made = autoscaler(
        {"type": "External", "external": queued}, 1, 6, scaleDown={"stabilizationWindowSeconds": 0}
    )
    cluster.apply(made, namespace=namespace)

    metrics.external[namespace, "queued"] = 45
    wait_for_pods(cluster, namespace, 5)
    # Neither the same again nor another field brings the two of the ModelService back.
    cluster.apply(service(), namespace=namespace)
    cluster.apply(service(gateway={"replicas": 1}), namespace=namespace)
    wait_until_seen(cluster, namespace)
    assert replicas(cluster, namespace, "workerpool", "chat-decode") == 5
    assert len(decode_pods(cluster, namespace)) == 5

    for pod in decode_pods(cluster, namespace):
        gateway.busy(uid, pod, running=0)
    metrics.external[namespace, "queued"] = 12
    wait_for_pods(cluster, namespace, 2)
    assert len(gateway.drained(uid)) == 3, "each was asked to drain before it was removed"
    # A metric that is not there any more moves nothing.
    del metrics.external[namespace, "queued"]

    def blind() -> bool:
        conditions = (cluster.get("hpa", "decode", namespace) or {})["status"]["conditions"]
        return ("ScalingActive", "False") in [(each["type"], each["status"]) for each in conditions]

    eventually(blind)
    assert replicas(cluster, namespace, "workerpool", "chat-decode") == 2


def test_the_example_goes_by_what_the_pools_own_workers_say(
    cluster: Cluster, namespace: str, metrics: MetricsApi
) -> None:
    """Of a pool's selector: other pods say so much that the most workers would be made."""
    scaled, made = yaml.safe_load_all((EXAMPLES / "autoscaling.yaml").read_text(encoding="utf-8"))
    scaled["spec"]["store"] = service()["spec"]["store"]
    cluster.apply(scaled, namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True", name="scaled")
    [metric] = made["spec"]["metrics"]
    said = dict.fromkeys(pods(cluster, namespace, ""), 1000)
    said |= dict.fromkeys(decode_pods(cluster, namespace), 100)
    metrics.of_pods[namespace, metric["pods"]["metric"]["name"]] = said
    cluster.apply(made, namespace=namespace)
    # 2 x 100, at 64 each.
    wait_for_pods(cluster, namespace, 4)


def test_gateways_follow_their_cpu_and_the_operator_leaves_their_count(
    cluster: Cluster, namespace: str, metrics: MetricsApi
) -> None:
    scaled = {"minReplicas": 2, "maxReplicas": 4}
    cluster.apply(service(gateway={"autoscaling": scaled}), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")
    name = names.gateway("chat")
    found = cluster.get("hpa", name, namespace)
    assert found is not None
    assert found["spec"]["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": name,
    }

    def gateways() -> list[str]:
        return pods(cluster, namespace, f"{names.LABEL_COMPONENT}=gateway")

    eventually(lambda: len(gateways()) == 2, within_s=60)
    # At twice what each requests.
    metrics.cpu[namespace] = dict.fromkeys(gateways(), 1000)
    eventually(lambda: len(gateways()) == 4, within_s=60)
    cluster.apply(service(gateway={"autoscaling": scaled, "auth": "off"}), namespace=namespace)
    wait_until_seen(cluster, namespace)
    assert replicas(cluster, namespace, "deployment", name) == 4
