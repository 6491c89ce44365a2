"""A ModelService on a real API server: children come, conditions tell, it scales, it goes."""

from __future__ import annotations

from baton_operator import names
from cluster.cluster import Cluster, eventually
from cluster.host_gateway import HostGateway
from cluster.operator_services import HELD, condition, service, wait_for
from cluster.operator_under_test import Operator


def test_a_service_comes_up_and_tells_the_truth(
    cluster: Cluster, namespace: str, operator: Operator
) -> None:
    cluster.apply(service(), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")
    deployments = cluster.get_all("deployments", namespace)
    by_pool = {each["metadata"]["labels"].get(names.LABEL_POOL): each for each in deployments}
    assert {pool: each["spec"]["replicas"] for pool, each in by_pool.items()} == {
        None: 2,
        "prefill": 1,
        "decode": 2,
    }
    found = cluster.get("modelservice", "chat", namespace)
    assert found is not None
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
    assert condition(cluster, namespace, "Stalled")["status"] == "False"
    for kind in ("service", "serviceaccount", "pdb", "networkpolicy", "configmap"):
        assert cluster.get_all(kind, namespace, f"{names.LABEL_SERVICE}=chat"), kind
    # Nothing of kopf's, and no finalizers, on anything.
    for kind in ("modelservices", "workerpools", "deployments", "pods", "services"):
        for each in cluster.get_all(kind, namespace):
            assert "finalizers" not in each["metadata"]
            assert not [name for name in each["metadata"].get("annotations", {}) if "kopf" in name]
    series = 'baton_condition{condition="Ready",namespace="%s",service="chat",status="true"}'
    assert operator.metric(series % namespace) == 1
    described = cluster.kubectl("describe", "modelservice", "chat", "-n", namespace)
    assert "baton-operator" in described, "events tell the story"


def test_conditions_become_true_as_pods_do(
    cluster: Cluster, namespace: str, operator: Operator
) -> None:
    pools = service()["spec"]["pools"]
    pools[1]["podTemplate"] = HELD
    cluster.apply(service(pools=pools), namespace=namespace)
    wait_for(cluster, namespace, "GatewayReady", "True")
    wait_for(cluster, namespace, "PrefillReady", "True")
    assert condition(cluster, namespace, "DecodeReady")["status"] != "True"
    assert condition(cluster, namespace, "Ready")["status"] != "True"
    for pod in cluster.get_all("pods", namespace, f"{names.LABEL_POOL}=decode"):
        cluster.kubectl(
            "annotate", "pod", pod["metadata"]["name"], "test.baton.dev/hold-", "-n", namespace
        )
    wait_for(cluster, namespace, "DecodeReady", "True")
    wait_for(cluster, namespace, "Ready", "True")


def test_a_pool_is_scaled_by_kubectl_and_drains_before_it_shrinks(
    cluster: Cluster, namespace: str, operator: Operator, gateway: HostGateway
) -> None:
    cluster.apply(service(), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")
    uid = cluster.get("modelservice", "chat", namespace)["metadata"]["uid"]  # type: ignore[index]
    where = ("-n", namespace)
    cluster.kubectl("scale", "workerpool/chat-decode", "--replicas=4", *where)

    def pods() -> list[str]:
        found = cluster.get_all("pods", namespace, f"{names.LABEL_POOL}=decode")
        return sorted(
            each["metadata"]["name"]
            for each in found
            if "deletionTimestamp" not in each["metadata"]
        )

    eventually(lambda: len(pods()) == 4, within_s=60)
    four = pods()
    for number, pod in enumerate(four):
        gateway.busy(uid, pod, running=number)
    eventually(
        lambda: all(
            each["status"].get("readyReplicas", 0) == 4
            for each in cluster.get_all("workerpools", namespace)
            if each["metadata"]["name"] == "chat-decode"
        ),
        within_s=60,
    )
    cluster.kubectl("scale", "workerpool/chat-decode", "--replicas=3", *where)
    # The emptiest one is asked first, and removed once it is empty.
    eventually(lambda: gateway.drained(uid) == four[:1], within_s=60)
    eventually(lambda: pods() == four[1:], within_s=60)
    wait_for(cluster, namespace, "Ready", "True")


def test_a_field_that_somebody_changes_is_taken_back(
    cluster: Cluster, namespace: str, operator: Operator
) -> None:
    cluster.apply(service(), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")
    [gateways] = cluster.get_all("services", namespace, f"{names.LABEL_SERVICE}=chat")
    changed = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": gateways["metadata"]["name"]},
        "spec": {"selector": {names.LABEL_SERVICE: "another"}},
    }
    cluster.apply(changed, namespace=namespace, manager="meddler", force=True)

    def is_back() -> bool:
        found = cluster.get("service", gateways["metadata"]["name"], namespace)
        return found is not None and found["spec"]["selector"] == gateways["spec"]["selector"]

    eventually(is_back, within_s=60)
    eventually(
        lambda: [
            each
            for each in cluster.get_all("events", namespace)
            if each["reason"] == "FieldsTakenBack"
        ],
        within_s=30,
    )


def test_a_child_that_is_deleted_comes_back(
    cluster: Cluster, namespace: str, operator: Operator
) -> None:
    cluster.apply(service(), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")
    for kind in ("deployment", "service", "pdb"):
        before = {
            each["metadata"]["name"]: each["metadata"]["uid"]
            for each in cluster.get_all(kind, namespace, f"{names.LABEL_SERVICE}=chat")
        }
        cluster.kubectl("delete", kind, "--all", "-n", namespace)

        def back(kind: str = kind, before: dict[str, str] = before) -> bool:
            found = cluster.get_all(kind, namespace, f"{names.LABEL_SERVICE}=chat")
            return {each["metadata"]["name"] for each in found} == set(before) and not {
                each["metadata"]["uid"] for each in found
            } & set(before.values())

        eventually(back, within_s=60)
    wait_for(cluster, namespace, "Ready", "True")


def test_what_belongs_to_somebody_else_is_left_alone(
    cluster: Cluster, namespace: str, operator: Operator
) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": names.workers("chat"), "labels": {"of": "somebody"}},
    }
    cluster.apply(theirs, namespace=namespace)
    cluster.apply(service(), namespace=namespace)
    stalled = wait_for(cluster, namespace, "Stalled", "True")
    assert names.workers("chat") in stalled["message"]
    found = cluster.get("serviceaccount", names.workers("chat"), namespace)
    assert found is not None and found["metadata"]["labels"] == {"of": "somebody"}
    cluster.kubectl("delete", "serviceaccount", names.workers("chat"), "-n", namespace)
    wait_for(cluster, namespace, "Ready", "True")


def test_a_deleted_service_leaves_nothing_and_its_successor_starts_afresh(
    cluster: Cluster, namespace: str, operator: Operator
) -> None:
    cluster.apply(service(), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")
    cluster.kubectl("delete", "modelservice", "chat", "-n", namespace)
    kinds = ("workerpools", "deployments", "services", "configmaps", "secrets", "pods")
    eventually(
        lambda: (
            not [
                each
                for kind in kinds
                for each in cluster.get_all(kind, namespace, f"{names.LABEL_SERVICE}=chat")
            ]
        ),
        within_s=120,
    )
    series = 'baton_condition{condition="Ready",namespace="%s",service="chat",status="true"}'
    assert operator.metric(series % namespace) == 0
    cluster.apply(service(), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")


def test_it_asks_for_nothing_that_is_forbidden_and_never_for_a_secret(
    cluster: Cluster, namespace: str, operator: Operator
) -> None:
    cluster.apply(service(), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")
    assert operator.forbidden() == []
    asked = {verb for verb, resource, _ in operator.requests() if resource == "secrets"}
    assert asked == {"patch"}
