"""What people and their tools may do to a service's objects never leaves the operator blind."""

from __future__ import annotations

import json

from baton_operator import names
from cluster.cluster import Cluster, eventually
from cluster.operator_services import service, wait_for
from cluster.operator_under_test import Operator

OURS = f"{names.LABEL_SERVICE}=chat"


def test_a_child_whose_label_was_taken_off_is_seen_again(
    cluster: Cluster, namespace: str, operator: Operator
) -> None:
    cluster.apply(service(), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")
    pool = names.worker_pool("chat", "decode")
    cluster.kubectl("label", "workerpool", pool, f"{names.LABEL_SERVICE}-", "-n", namespace)

    def is_back() -> bool:
        found = cluster.get_all("workerpools", namespace, OURS)
        return pool in {each["metadata"]["name"] for each in found}

    eventually(is_back, within_s=60)
    cluster.kubectl("scale", "workerpool", pool, "--replicas=3", "-n", namespace)

    def workers() -> int:
        pods = cluster.get_all("pods", namespace, f"{OURS},{names.LABEL_POOL}=decode")
        return len(pods)

    eventually(lambda: workers() == 3, within_s=60)


def test_labels_that_make_no_sense_end_no_watch(
    cluster: Cluster, namespace: str, operator: Operator
) -> None:
    labels = {names.LABEL_SERVICE: "x", names.LABEL_GROUP: "nan", names.LABEL_GROUP_POD: "inf"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "odd",
            "labels": labels,
            "annotations": {names.ANNOTATION_DRAIN_SINCE: "nan"},
        },
        "spec": {"containers": [{"name": "c", "image": "x"}]},
    }
    cluster.apply(pod, namespace=namespace)
    cluster.apply(service(), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")
    log = cluster.processes.log(operator.process("a")).read_text()
    assert "watch_ended" not in log


def test_a_users_image_does_not_become_the_default(
    cluster: Cluster, namespace: str, operator: Operator
) -> None:
    cluster.apply(service(), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")

    def images() -> set[str]:
        found = cluster.get_all("deployments", namespace, f"{OURS},{names.LABEL_POOL}=decode")
        return {
            each["spec"]["template"]["spec"]["containers"][0]["image"]
            for each in found
            if each["spec"]["replicas"]
        }

    [default] = images()
    cluster.apply(service(image="registry.example/baton:typo"), namespace=namespace)
    eventually(lambda: "registry.example/baton:typo" in images(), within_s=60)
    cluster.apply(service(), namespace=namespace)
    eventually(lambda: images() == {default}, within_s=60)


def test_what_is_written_into_a_status_by_hand_goes_again(
    cluster: Cluster, namespace: str, operator: Operator
) -> None:
    cluster.apply(service(), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")
    by_hand = {"status": {"startup": {"loading": "by hand"}, "revision": {"failed": "r"}}}
    cluster.kubectl(
        *("patch", "modelservice", "chat", "-n", namespace),
        *("--subresource=status", "--type=merge", "-p", json.dumps(by_hand)),
    )

    def is_gone() -> bool:
        status = (cluster.get("modelservice", "chat", namespace) or {})["status"]
        return "startup" not in status and "failed" not in status["revision"]

    eventually(is_gone, within_s=60)


def test_a_users_secret_is_never_the_services(
    cluster: Cluster, namespace: str, operator: Operator
) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "chat-internal"},
        "stringData": {"token": "precious"},
    }
    cluster.apply(theirs, namespace=namespace)
    before = cluster.get("secret", "chat-internal", namespace)
    cluster.apply(service(), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")
    found = cluster.get("modelservice", "chat", namespace) or {}
    own = names.internal_secret("chat", found["metadata"]["uid"])
    assert cluster.get("secret", own, namespace) is not None
    assert cluster.get("secret", "chat-internal", namespace) == before
