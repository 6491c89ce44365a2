"""Rights that are missing and CRDs that go are said, waited for, and cost no service for good."""

from __future__ import annotations

from baton_operator import names
from cluster.baton_objects import Manifest, install_crds
from cluster.cluster import Cluster, eventually
from cluster.operator_services import condition, service, wait_for
from cluster.operator_under_test import Operator

OURS = (f"{names.SERVICE_PLURAL}.{names.GROUP}", f"{names.POOL_PLURAL}.{names.GROUP}")
MINE = f"{names.LABEL_SERVICE}=chat"


def specs(cluster: Cluster, namespace: str, kind: str) -> dict[str, Manifest]:
    return {
        each["metadata"]["name"]: each["spec"] for each in cluster.get_all(kind, namespace, MINE)
    }


def test_a_kind_that_may_not_be_watched_is_named_and_left_out(
    cluster: Cluster, namespace: str, local_operator: Operator
) -> None:
    local_operator.grant(without="networkpolicies")
    cluster.apply(service(), namespace=namespace)
    local_operator.start()
    wait_for(cluster, namespace, "Ready", "True")
    found = wait_for(cluster, namespace, "Degraded", "True")
    assert found["reason"] == "RightsMissing" and "networkpolicies" in found["message"]
    assert specs(cluster, namespace, "networkpolicies") == {}
    assert (local_operator.probe("readyz") or {})["unwatched"] == ["NetworkPolicy"]
    local_operator.grant()
    wait_for(cluster, namespace, "Degraded", "False")
    eventually(lambda: specs(cluster, namespace, "networkpolicies"))
    assert local_operator.forbidden() == []


def test_without_sight_of_workers_they_stay_as_they_are(
    cluster: Cluster, namespace: str, local_operator: Operator
) -> None:
    cluster.apply(service(image="example/one:1"), namespace=namespace)
    local_operator.start("a")
    wait_for(cluster, namespace, "Ready", "True")
    local_operator.stop("a")
    before = specs(cluster, namespace, "deployments")
    status = (cluster.get("modelservice", "chat", namespace) or {})["status"]
    local_operator.grant(without="deployments")
    local_operator.start("b")
    cluster.apply(service(image="example/one:2"), namespace=namespace)
    found = wait_for(cluster, namespace, "Stalled", "True")
    assert found["reason"] == "RightsMissing" and "deployments" in found["message"]
    held = (cluster.get("modelservice", "chat", namespace) or {})["status"]
    assert held["revision"] == status["revision"]
    assert specs(cluster, namespace, "deployments") == before
    local_operator.grant()

    def rolled() -> bool:
        now = (cluster.get("modelservice", "chat", namespace) or {})["status"]
        return bool(now["revision"].get("current") != status["revision"]["current"])

    eventually(rolled, within_s=120, every_s=0.5)
    assert condition(cluster, namespace, "Stalled")["status"] == "False"
    assert local_operator.forbidden() == []


def test_crds_that_went_and_came_back_leave_a_working_operator(
    cluster: Cluster, namespace: str, local_operator: Operator
) -> None:
    local_operator.start(lease_deadline_s=20, lease_duration_s=25)
    cluster.apply(service(), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")
    log = cluster.processes.log(local_operator.process())

    # Those of pools alone, and back at once: the pools are the service's, which has all of them.
    cluster.kubectl("delete", "crd", OURS[1], "--timeout=60s")
    install_crds(cluster)

    def is_written() -> bool:
        pool = specs(cluster, namespace, "workerpools").get("chat-decode")
        return pool is not None and pool["replicas"] == 2

    eventually(is_written, within_s=60)
    cluster.kubectl("scale", "workerpool/chat-decode", "--replicas=3", "-n", namespace)
    decode = f"{names.LABEL_POOL}=decode"
    eventually(lambda: len(cluster.get_all("pods", namespace, decode)) == 3, within_s=60)

    # Both, for long enough to be noticed: all services go with their children.
    cluster.kubectl("delete", "crd", *OURS, "--timeout=60s")
    eventually(lambda: "waiting_to_watch" in log.read_text(), within_s=120)
    eventually(lambda: specs(cluster, namespace, "deployments") == {}, within_s=120)
    assert local_operator.leads() and local_operator.healthy(), (
        "the same process, which never ended"
    )
    install_crds(cluster)
    cluster.apply(service(), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True", within_s=120)
    assert len(specs(cluster, namespace, "deployments")) == 3
