"""The real node that the other tests of this folder count on."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.cluster import Cluster
from e2e import images
from e2e.node import Node

_IMAGE = "baton.test/shell:1"


@pytest.fixture(scope="module")
def cluster(node: tuple[Node, Cluster], tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    archive = tmp_path_factory.mktemp("images") / "shell.tar"
    node[0].import_image(images.of_this_machine(_IMAGE, archive, ["sh"]))
    return node[1]


def _pod_spec(*command: str, **more: Any) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": _IMAGE,
        "imagePullPolicy": "Never",
        "command": list(command),
        **more,
    }
    return {"containers": [container], "terminationGracePeriodSeconds": 1}


def _web(replicas: int) -> list[dict[str, Any]]:
    """A Deployment that says its pod's name over HTTP, and its Service."""
    labels = {"app": "web"}
    serve = "cd /tmp; hostname > name; exec python3 -m http.server 8080"
    probe = {"httpGet": {"port": 8080, "path": "/name"}, "periodSeconds": 1}
    template = {
        "metadata": {"labels": labels},
        "spec": _pod_spec("sh", "-c", serve, readinessProbe=probe),
    }
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web"},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": template,
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
        },
    ]


def test_a_pod_reaches_a_service_by_name(cluster: Cluster) -> None:
    with cluster.namespace() as namespace:
        cluster.apply(*_web(replicas=2), namespace=namespace)
        cluster.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=90s")
        names = {pod["metadata"]["name"] for pod in cluster.get_all("pods", namespace)}
        ask = (
            "import urllib.request as r\n"
            "for _ in range(12): print(r.urlopen('http://web/name', timeout=5).read().decode())"
        )
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "ask"},
            "spec": {
                "backoffLimit": 3,
                "template": {"spec": {**_pod_spec("python3", "-c", ask), "restartPolicy": "Never"}},
            },
        }
        cluster.apply(job, namespace=namespace)
        cluster.kubectl(
            "wait", "--for=condition=Complete", "job/ask", "-n", namespace, "--timeout=60s"
        )
        answers = cluster.kubectl("logs", "job/ask", "-n", namespace).split()
        assert len(answers) == 12 and set(answers) <= names


def test_a_command_runs_in_a_pod(cluster: Cluster) -> None:
    with cluster.namespace() as namespace:
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "shell"},
            "spec": _pod_spec("sleep", "300"),
        }
        cluster.apply(pod, namespace=namespace)
        cluster.kubectl(
            "wait", "--for=condition=Ready", "pod/shell", "-n", namespace, "--timeout=60s"
        )
        said = cluster.kubectl("exec", "shell", "-n", namespace, "--", "echo", "here")
        assert said.strip() == "here"
        # The API server by the name that every client library uses.
        ask = "import socket; print(socket.gethostbyname('kubernetes.default.svc'))"
        found = cluster.kubectl("exec", "shell", "-n", namespace, "--", "python3", "-c", ask)
        assert found.strip() == "10.96.0.1"
