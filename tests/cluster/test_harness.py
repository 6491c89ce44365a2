"""The control plane that the other tests of this folder count on does what they count on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from cluster.cluster import Cluster, CommandFailed, eventually
from cluster.leader_worker_sets import leader_worker_sets


def _deployment(name: str, replicas: int, **annotations: str) -> dict[str, Any]:
    labels = {"app": name}
    container = {"name": "main", "image": "example.com/none"}
    template = {
        "metadata": {"labels": labels, "annotations": annotations},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


def _config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def _crd() -> dict[str, Any]:
    """Widgets with a scale subresource and a rule in CEL."""
    spec = {
        "type": "object",
        "properties": {"replicas": {"type": "integer"}, "most": {"type": "integer"}},
        "x-kubernetes-validations": [
            {"rule": "self.replicas <= self.most", "message": "raise spec.most first"}
        ],
    }
    status = {
        "type": "object",
        "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}},
    }
    scale = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": status}}
        },
        "subresources": {"status": {}, "scale": scale},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.harness.baton.dev"},
        "spec": {
            "group": "harness.baton.dev",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [version],
        },
    }


def _widget(replicas: int) -> dict[str, Any]:
    return {
        "apiVersion": "harness.baton.dev/v1",
        "kind": "Widget",
        "metadata": {"name": "one"},
        "spec": {"replicas": replicas, "most": 3},
    }


@pytest.fixture(scope="module")
def widgets(cluster: Cluster) -> Any:
    cluster.apply(_crd())
    crd = "crd/widgets.harness.baton.dev"
    cluster.kubectl("wait", "--for=condition=Established", crd, "--timeout=30s")
    yield
    cluster.kubectl("delete", crd, "--wait=false")


def test_a_rule_in_cel_refuses_with_its_message(
    cluster: Cluster, namespace: str, widgets: None
) -> None:
    cluster.apply(_widget(replicas=2), namespace=namespace)
    with pytest.raises(CommandFailed, match=r"raise spec\.most first"):
        cluster.apply(_widget(replicas=4), namespace=namespace)


def test_an_admission_policy_is_checked(cluster: Cluster, namespace: str) -> None:
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["configmaps"],
    }
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": namespace},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [
                {"expression": "object.metadata.name != 'refused'", "message": "not this name"}
            ],
        },
    }
    only_here = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": namespace},
        "spec": {
            "policyName": namespace,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": only_here},
        },
    }

    def refused() -> bool:
        try:
            cluster.kubectl("create", "configmap", "refused", "-n", namespace, "--dry-run=server")
        except CommandFailed as error:
            return "not this name" in str(error)
        return False

    cluster.apply(policy, binding)
    try:
        eventually(refused)
    finally:
        cluster.kubectl("delete", "validatingadmissionpolicybinding", namespace)
        cluster.kubectl("delete", "validatingadmissionpolicy", namespace)


def test_two_managers_of_a_field_conflict(cluster: Cluster, namespace: str) -> None:
    cluster.apply(_config_map("shared", colour="red"), namespace=namespace, manager="first")
    with pytest.raises(CommandFailed, match='conflict with "first"'):
        cluster.apply(_config_map("shared", colour="blue"), namespace=namespace, manager="second")
    blue = _config_map("shared", colour="blue")
    cluster.apply(blue, namespace=namespace, manager="second", force=True)
    found = cluster.get("configmap", "shared", namespace)
    assert found is not None and found["data"] == {"colour": "blue"}


def test_scale_subresource_changes_the_replicas(
    cluster: Cluster, namespace: str, widgets: None
) -> None:
    cluster.apply(_widget(replicas=1), namespace=namespace)
    cluster.kubectl("scale", "widget/one", "--replicas=3", "-n", namespace)
    found = cluster.get("widget", "one", namespace)
    assert found is not None and found["spec"]["replicas"] == 3


def test_groups_of_pods_are_made_by_their_own_controller(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    template = _deployment("groups", 1)["spec"]["template"]
    groups = {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": "groups"},
        "spec": {"replicas": 2, "leaderWorkerTemplate": {"size": 2, "workerTemplate": template}},
    }

    def ready() -> int:
        found = cluster.get("leaderworkerset", "groups", namespace) or {}
        count: int = found.get("status", {}).get("readyReplicas", 0)
        return count

    with leader_worker_sets(cluster, tmp_path), cluster.kwok_nodes(1):
        cluster.apply(groups, namespace=namespace)
        eventually(lambda: ready() == 2)
        index = "leaderworkerset.sigs.k8s.io/worker-index"
        others = cluster.get_all("pods", namespace, f"{index}=1")
        assert {each["metadata"]["name"] for each in others} == {"groups-0-1", "groups-1-1"}
    assert cluster.get("crd", "leaderworkersets.leaderworkerset.x-k8s.io") is None


def test_rights_are_those_of_the_caller(cluster: Cluster, namespace: str) -> None:
    core = client.CoreV1Api(cluster.api)
    core.create_namespaced_service_account(namespace, {"metadata": {"name": "reader"}})
    reader = cluster.as_service_account(namespace, "reader")
    for other in (reader, cluster.as_user("nobody")):
        with pytest.raises(CommandFailed, match="forbidden"):
            other.kubectl("get", "pods", "-n", namespace)
        with pytest.raises(client.ApiException, match="forbidden"):
            client.CoreV1Api(other.api).list_namespaced_pod(namespace)

    account = f"--serviceaccount={namespace}:reader"
    cluster.kubectl("create", "rolebinding", "r", "--clusterrole=view", account, "-n", namespace)
    assert reader.get_all("pods", namespace) == []
    assert client.CoreV1Api(reader.api).list_namespaced_pod(namespace).items == []
    with pytest.raises(CommandFailed, match="forbidden"):
        reader.kubectl("create", "configmap", "x", "-n", namespace)
    if cluster.audit_log is None:
        return  # a cluster that was there
    # What a service account asked for is on record, refusals included.
    name = f"system:serviceaccount:{namespace}:reader"
    records = [json.loads(line) for line in cluster.audit_log.read_text().splitlines()]
    own = [
        (r["verb"], r["responseStatus"]["code"]) for r in records if r["user"]["username"] == name
    ]
    assert ("list", 403) in own and ("list", 200) in own and ("create", 403) in own


def test_a_pod_becomes_ready_on_a_fake_node(cluster: Cluster, namespace: str) -> None:
    resources = {"nvidia.com/gpu": "8"}
    with cluster.kwok_nodes(2, labels={"gpu": "fake"}, capacity=resources) as nodes:
        deployment = _deployment("ready", replicas=2)
        spec = deployment["spec"]["template"]["spec"]
        spec["nodeSelector"] = {"gpu": "fake"}
        # One pod fits on each node.
        spec["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "6"}}
        cluster.apply(deployment, namespace=namespace)
        cluster.kubectl("rollout", "status", "deployment/ready", "-n", namespace, "--timeout=60s")
        pods = cluster.get_all("pods", namespace)
        assert {pod["spec"]["nodeName"] for pod in pods} == set(nodes)
        assert all(pod["status"]["podIP"] for pod in pods)

        cluster.kubectl("delete", "pods", "--all", "-n", namespace, "--timeout=30s")
    assert not {node["metadata"]["name"] for node in cluster.get_all("nodes")} & set(nodes)


def test_a_held_pod_is_what_the_test_says(cluster: Cluster, namespace: str) -> None:
    core = client.CoreV1Api(cluster.api)
    with cluster.kwok_nodes(1):
        cluster.apply(
            _deployment("held", 1, **{"test.baton.dev/hold": "true"}), namespace=namespace
        )
        [pod] = eventually(
            lambda: [p for p in cluster.get_all("pods", namespace) if p["spec"].get("nodeName")]
        )
        name = pod["metadata"]["name"]
        waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
        status = {
            "name": "main",
            "image": "example.com/none",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": {"waiting": waiting},
        }
        core.patch_namespaced_pod_status(
            name, namespace, {"status": {"containerStatuses": [status]}}
        )
        found = cluster.get("pod", name, namespace)
        assert found is not None
        assert found["status"]["containerStatuses"][0]["state"]["waiting"] == waiting

        cluster.kubectl("annotate", "pod", name, "test.baton.dev/hold-", "-n", namespace)
        cluster.kubectl(
            "wait", "--for=condition=Ready", f"pod/{name}", "-n", namespace, "--timeout=30s"
        )


def test_a_deleted_pod_stays_as_long_as_the_test_says(cluster: Cluster, namespace: str) -> None:
    with cluster.kwok_nodes(1):
        delayed = {"test.baton.dev/deletion-delay": "3s"}
        cluster.apply(_deployment("slow", 1, **delayed), namespace=namespace)
        cluster.kubectl("rollout", "status", "deployment/slow", "-n", namespace, "--timeout=60s")
        [pod] = cluster.get_all("pods", namespace)
        name = pod["metadata"]["name"]
        cluster.kubectl("delete", "pod", name, "-n", namespace, "--wait=false")
        found = cluster.get("pod", name, namespace)
        assert found is not None and found["metadata"]["deletionTimestamp"]
        eventually(lambda: cluster.get("pod", name, namespace) is None)


@pytest.mark.parametrize(("code", "condition"), [("0", "Complete"), ("1", "Failed")])
def test_a_job_ends_as_the_test_says(
    cluster: Cluster, namespace: str, code: str, condition: str
) -> None:
    annotations = {
        "test.baton.dev/exit-code": code,
        "test.baton.dev/termination-message": 'it\'s "so"',
    }
    spec = {
        "containers": [{"name": "main", "image": "example.com/none"}],
        "restartPolicy": "Never",
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "job"},
        "spec": {
            "backoffLimit": 0,
            "template": {"metadata": {"annotations": annotations}, "spec": spec},
        },
    }
    with cluster.kwok_nodes(1):
        cluster.apply(job, namespace=namespace)
        cluster.kubectl(
            "wait", f"--for=condition={condition}", "job/job", "-n", namespace, "--timeout=30s"
        )
        [pod] = cluster.get_all("pods", namespace)
        ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (ended["exitCode"], ended["message"]) == (int(code), 'it\'s "so"')


def test_owned_objects_go_with_their_owner(cluster: Cluster, namespace: str) -> None:
    cluster.apply(_config_map("owner"), namespace=namespace)
    owner = cluster.get("configmap", "owner", namespace)
    assert owner is not None
    owned = _config_map("owned")
    owned["metadata"]["ownerReferences"] = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": "owner",
            "uid": owner["metadata"]["uid"],
        }
    ]
    cluster.apply(owned, namespace=namespace)
    cluster.kubectl("delete", "configmap", "owner", "-n", namespace)
    eventually(lambda: cluster.get("configmap", "owned", namespace) is None)


def test_a_namespace_goes_with_all_in_it(cluster: Cluster, widgets: None) -> None:
    with cluster.namespace({"kind": "fresh"}) as name:
        found = cluster.get("namespace", name)
        assert found is not None and found["metadata"]["labels"]["kind"] == "fresh"
        cluster.apply(_config_map("left"), _widget(replicas=1), namespace=name)
    eventually(lambda: cluster.get("namespace", name) is None, within_s=60)


@pytest.mark.parametrize("major", [3, 4])
def test_helm_installs_a_chart(cluster: Cluster, namespace: str, major: int, tmp_path: Any) -> None:
    chart = tmp_path / "small"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("{apiVersion: v2, name: small, version: 1.0.0}\n")
    template = _config_map("made", by="{{ .Release.Name }}", kube="{{ .Capabilities.KubeVersion }}")
    (chart / "templates" / "one.yaml").write_text(json.dumps(template))
    assert cluster.helm("version", "--short", major=major).startswith(f"v{major}.")
    cluster.helm("install", "rel", str(chart), "-n", namespace, "--wait", major=major)
    found = cluster.get("configmap", "made", namespace)
    assert found is not None and found["data"]["by"] == "rel"
    assert found["data"]["kube"].startswith("v1.")
    cluster.helm("uninstall", "rel", "-n", namespace, major=major)
    assert cluster.get("configmap", "made", namespace) is None


def test_processes_end_with_a_test_run_that_is_killed(tmp_path: Any) -> None:
    run = (
        "import pathlib, sys, time\n"
        "from cluster.processes import Processes\n"
        "processes = Processes(pathlib.Path(sys.argv[1]))\n"
        "processes.start('sleep', ['sleep', '300'])\n"
        "print(processes.pid('sleep'), flush=True)\n"
        "time.sleep(300)\n"
    )
    tests = os.path.dirname(os.path.dirname(__file__))
    child = subprocess.Popen(
        [sys.executable, "-c", run, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": tests},
    )
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    child.communicate()

    def gone() -> bool:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                return stat.read().rsplit(")", 1)[1].split()[0] == "Z"
        except FileNotFoundError:
            return True

    eventually(gone)
