"""What stands in a service's way is said in its conditions, and passes when it is mended."""

from __future__ import annotations

import pytest
from kubernetes import client

from baton_operator import names
from cluster.baton_objects import Manifest
from cluster.cluster import Cluster, eventually
from cluster.host_gateway import HostGateway
from cluster.operator_services import HELD, condition, service, wait_for
from cluster.operator_under_test import Operator, chart_rules

pytestmark = pytest.mark.usefixtures("operator")

# Groups of CRDs that the test cluster does not have.
ADD_ONS = {"leaderworkerset.x-k8s.io", "gateway.networking.k8s.io", "monitoring.coreos.com"}
HUB = {"source": "example/tiny", "revision": "main"}
PAIR = [
    {"name": "prefill", "role": "prefill", "engine": {"kind": "mock"}},
    {"name": "decode", "role": "decode", "engine": {"kind": "mock"}},
]


def uid(cluster: Cluster, namespace: str) -> str:
    found = cluster.get("modelservice", "chat", namespace)
    assert found is not None
    value: str = found["metadata"]["uid"]
    return value


def reason(
    cluster: Cluster, namespace: str, type: str, status: str, reason: str, within_s: float = 90
) -> Manifest:
    """The condition, once it has this status for this reason."""

    def holds() -> Manifest | None:
        found = condition(cluster, namespace, type)
        return found if (found.get("status"), found.get("reason")) == (status, reason) else None

    try:
        return eventually(holds, within_s=within_s, every_s=0.3)
    except AssertionError:
        seen = cluster.get("modelservice", "chat", namespace) or {}
        raise AssertionError(f"{type} is not {status}/{reason}: {seen.get('status')}") from None


def set_waiting(cluster: Cluster, namespace: str, pod: str, why: str, message: str) -> None:
    """As the kubelet tells of a container that does not start."""
    status = {
        "name": "worker",
        "image": "example",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"waiting": {"reason": why, "message": message}},
    }
    client.CoreV1Api(cluster.api).patch_namespaced_pod_status(
        pod, namespace, {"status": {"containerStatuses": [status]}}
    )


def pods(cluster: Cluster, namespace: str, pool: str) -> list[Manifest]:
    found = cluster.get_all("pods", namespace, f"{names.LABEL_POOL}={pool}")
    return [each for each in found if "deletionTimestamp" not in each["metadata"]]


def meddle(cluster: Cluster, namespace: str) -> None:
    """Change a field of the gateway's Service, and wait until the operator took it back."""
    name = names.gateway("chat")
    changed = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {names.LABEL_SERVICE: "another"}},
    }
    cluster.apply(changed, namespace=namespace, manager="meddler", force=True)

    def is_back() -> bool:
        found = cluster.get("service", name, namespace)
        return found is not None and found["spec"]["selector"][names.LABEL_SERVICE] == "chat"

    eventually(is_back, within_s=60)


def test_a_quota_is_named_and_once_raised_the_service_comes_up(
    cluster: Cluster, namespace: str
) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small"},
        "spec": {"hard": {"pods": "1"}},
    }
    cluster.apply(quota, namespace=namespace)
    cluster.apply(service(), namespace=namespace)
    found = reason(cluster, namespace, "Degraded", "True", "QuotaExceeded")
    assert "exceeded quota: small" in found["message"]
    cluster.kubectl("delete", "resourcequota", "small", "-n", namespace)
    # A ReplicaSet that was refused tries again after longer and longer waits.
    wait_for(cluster, namespace, "Ready", "True", within_s=120)
    reason(cluster, namespace, "Degraded", "False", "AsExpected")


def test_a_secret_that_was_deleted_is_written_again(cluster: Cluster, namespace: str) -> None:
    pools = [PAIR[0], {**PAIR[1], "podTemplate": HELD}]
    cluster.apply(service(pools=pools), namespace=namespace)
    [pod] = eventually(lambda: pods(cluster, namespace, "decode"), within_s=60)
    found = cluster.get("modelservice", "chat", namespace)
    assert found is not None
    secret = names.internal_secret("chat", found["metadata"]["uid"])
    before = cluster.get("secret", secret, namespace)
    assert before is not None and "token" in before["data"]
    cluster.kubectl("delete", "secret", secret, "-n", namespace)
    message = f'secret "{secret}" not found'
    set_waiting(cluster, namespace, pod["metadata"]["name"], "CreateContainerConfigError", message)
    reason(cluster, namespace, "Degraded", "True", "SecretMissing")
    after = eventually(lambda: cluster.get("secret", secret, namespace), within_s=60)
    assert after["data"] == before["data"], "made again alike, from nothing that was kept"


def test_a_claim_that_cannot_bind_is_named(cluster: Cluster, namespace: str) -> None:
    cache = {"type": "NewClaim", "size": "1Gi", "storageClassName": "none-such"}
    cluster.apply(service(model={**HUB, "cache": cache}), namespace=namespace)
    reason(cluster, namespace, "ModelCached", "False", "ClaimUnbound")
    assert condition(cluster, namespace, "Ready")["status"] == "False"


def test_a_model_of_a_hub_is_looked_up_before_workers_are_made(
    cluster: Cluster, namespace: str
) -> None:
    cluster.apply(service(model=HUB), namespace=namespace)
    wait_for(cluster, namespace, "ModelCached", "True")
    wait_for(cluster, namespace, "Ready", "True")
    jobs = cluster.get_all("jobs", namespace, f"{names.LABEL_SERVICE}=chat")
    assert len(jobs) <= 1


def test_a_transport_that_the_namespace_forbids_is_refused(cluster: Cluster) -> None:
    with cluster.namespace({"pod-security.kubernetes.io/enforce": "restricted"}) as namespace:
        cluster.apply(service(transport={"profile": "node"}), namespace=namespace)
        reason(cluster, namespace, "Stalled", "True", "ForbiddenByNamespace")
        reason(cluster, namespace, "TransportReady", "False", "ForbiddenByNamespace")
        # With the default profile all of it runs where pods are restricted.
        cluster.apply(service(), namespace=namespace)
        wait_for(cluster, namespace, "Ready", "True")


def test_measured_latency_is_held_against_the_objectives(
    cluster: Cluster, namespace: str, gateway: HostGateway
) -> None:
    cluster.apply(service(slo={"ttftSeconds": 1.0, "tpotSeconds": 0.1}), namespace=namespace)
    reason(cluster, namespace, "SLOMet", "Unknown", "NoRequests")
    own = uid(cluster, namespace)
    gateway.slo[own] = {"ttft_s": 0.4, "tpot_s": 0.05, "requests": 100}
    reason(cluster, namespace, "SLOMet", "True", "Met")
    gateway.slo[own] = {"ttft_s": 1.4, "tpot_s": 0.05, "requests": 100}
    found = reason(cluster, namespace, "SLOMet", "False", "Missed")
    assert "first token" in found["message"]
    status = (cluster.get("modelservice", "chat", namespace) or {})["status"]
    assert status["slo"]["ttftSeconds"] == 1.4


def test_a_new_image_rolls_out_pair_by_pair_and_the_old_ones_drain(
    cluster: Cluster, namespace: str, gateway: HostGateway
) -> None:
    cluster.apply(service(image="example/one:1"), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")
    old = (cluster.get("modelservice", "chat", namespace) or {})["status"]["revision"]["current"]
    own = uid(cluster, namespace)
    before = {pod["metadata"]["name"] for pod in pods(cluster, namespace, "decode")}
    for pod in before:
        gateway.busy(own, pod, running=0)
    cluster.apply(service(image="example/one:2"), namespace=namespace)

    def rolled() -> bool:
        status = (cluster.get("modelservice", "chat", namespace) or {})["status"]
        return status["revision"]["current"] != old and all(
            each["spec"]["containers"][0]["image"] == "example/one:2"
            for pool in ("prefill", "decode")
            for each in pods(cluster, namespace, pool)
        )

    eventually(rolled, within_s=120, every_s=0.5)
    wait_for(cluster, namespace, "Ready", "True")
    reason(cluster, namespace, "Progressing", "False", "Complete")
    assert before <= set(gateway.drained(own)), "each was asked to drain before it was removed"


def test_a_canary_gets_its_share_and_stays(
    cluster: Cluster, namespace: str, gateway: HostGateway
) -> None:
    cluster.apply(service(image="example/one:1"), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")
    own = uid(cluster, namespace)
    cluster.apply(service(image="example/one:2", rollout={"weight": 10}), namespace=namespace)
    reason(cluster, namespace, "Progressing", "False", "Canary")
    shares = eventually(lambda: gateway.traffic.get(own), within_s=60)
    assert sorted(shares.values()) == [0.1, 0.9]
    images = {pod["spec"]["containers"][0]["image"] for pod in pods(cluster, namespace, "decode")}
    assert images == {"example/one:1", "example/one:2"}


def test_a_revision_that_never_gets_ready_stops_and_the_old_one_serves_on(
    cluster: Cluster, namespace: str
) -> None:
    cluster.apply(service(image="example/one:1", pools=PAIR), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")
    held = [{**pool, "podTemplate": HELD} for pool in PAIR]
    bad = service(image="example/one:2", pools=held, rollout={"progressDeadlineSeconds": 10})
    cluster.apply(bad, namespace=namespace)
    reason(cluster, namespace, "Stalled", "True", "ProgressDeadlineExceeded")
    assert condition(cluster, namespace, "Ready")["status"] == "True"
    cluster.apply(service(image="example/one:1", pools=PAIR), namespace=namespace)
    reason(cluster, namespace, "Stalled", "False", "NotStalled")
    reason(cluster, namespace, "Progressing", "False", "Complete")


def test_old_workers_stay_for_gateways_that_cannot_be_replaced(
    cluster: Cluster, namespace: str
) -> None:
    def images(pool: str) -> set[str]:
        return {pod["spec"]["containers"][0]["image"] for pod in pods(cluster, namespace, pool)}

    cluster.apply(service(image="example/one:1", pools=PAIR), namespace=namespace)
    reason(cluster, namespace, "Progressing", "False", "Complete")
    new = {"image": "example/one:2", "pools": PAIR, "rollout": {"progressDeadlineSeconds": 10}}
    cluster.apply(service(**new, gateway={"podTemplate": HELD}), namespace=namespace)
    reason(cluster, namespace, "Stalled", "True", "GatewaysStuck")
    assert images("prefill") == images("decode") == {"example/one:1", "example/one:2"}
    assert condition(cluster, namespace, "Ready")["status"] == "True"
    assert condition(cluster, namespace, "GatewayReady")["reason"] == "GatewaysUpdating"
    cluster.apply(service(**new), namespace=namespace)
    reason(cluster, namespace, "Progressing", "False", "Complete")
    assert images("prefill") == images("decode") == {"example/one:2"}


def test_an_image_that_cannot_be_pulled_is_named(cluster: Cluster, namespace: str) -> None:
    pools = [PAIR[0], {**PAIR[1], "podTemplate": HELD}]
    cluster.apply(service(pools=pools), namespace=namespace)
    [pod] = eventually(lambda: pods(cluster, namespace, "decode"), within_s=60)
    name = pod["metadata"]["name"]
    set_waiting(cluster, namespace, name, "ImagePullBackOff", "no such image")
    reason(cluster, namespace, "Degraded", "True", "ImagePullFailed")
    reason(cluster, namespace, "DecodeReady", "False", "ImagePullFailed")


def test_each_right_of_the_chart_is_used(
    cluster: Cluster, namespace: str, operator: Operator
) -> None:
    """After all of the above, and a service that gives up everything optional."""
    more = {
        "ingress": {"host": "chat.example.com"},
        "autoscaling": {"minReplicas": 2, "maxReplicas": 4},
        "resources": {"requests": {"cpu": "1"}},
    }
    cache = {"type": "NewClaim", "size": "1Gi"}
    cluster.apply(service(gateway=more, model={**HUB, "cache": cache}), namespace=namespace)
    label = f"{names.LABEL_SERVICE}=chat"
    for kind in ("ingress", "hpa", "pvc", "job"):
        eventually(lambda kind=kind: cluster.get_all(kind, namespace, label), within_s=60)
    extra = {"name": "extra", "role": "decode", "engine": {"kind": "mock"}}
    cluster.apply(service(pools=[*PAIR, extra]), namespace=namespace)
    for kind in ("ingress", "hpa", "pvc", "job"):
        eventually(lambda kind=kind: not cluster.get_all(kind, namespace, label), within_s=60)
    wait_for(cluster, namespace, "Ready", "True")
    cluster.apply(service(pools=PAIR), namespace=namespace)
    gone = f"{label},{names.LABEL_POOL}=extra"
    for kind in ("workerpool", "deployment", "pdb"):
        eventually(lambda kind=kind: not cluster.get_all(kind, namespace, gone), within_s=90)

    for _ in range(2):
        meddle(cluster, namespace)

    used = {(verb, resource) for verb, resource, _ in operator.requests()}
    granted = {
        (verb, resource)
        for rule in chart_rules()
        if not set(rule["apiGroups"]) & ADD_ONS
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    # A server-side apply that makes an object is a patch; that it needs the right to create, too,
    # is not on record.
    applied = {("create", resource) for verb, resource in used if verb == "patch"}
    assert granted - used - applied == set()
