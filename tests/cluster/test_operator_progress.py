"""How far a download is stands in the service's status while it is under way."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from kubernetes import client

from baton_operator import names
from cluster.baton_objects import Manifest, install_crds
from cluster.cluster import Cluster, eventually
from cluster.host_gateway import HostGateway
from cluster.operator_services import condition, service
from cluster.operator_under_test import Operator

CACHE = {"type": "ExistingClaim", "claimName": "weights"}
GIB = 1 << 30


@pytest.fixture(scope="module")
def nodes(cluster: Cluster) -> None:
    """None that takes pods by itself."""
    install_crds(cluster)


@pytest.fixture
def node(cluster: Cluster, namespace: str) -> Iterator[str]:
    """One that nobody keeps: what is bound to it stays as it is."""
    core = client.CoreV1Api(cluster.api)
    core.create_node({"metadata": {"name": f"still-{namespace}"}})
    yield f"still-{namespace}"
    core.delete_node(f"still-{namespace}")


def test_bytes_of_a_download_are_told_while_it_runs(
    cluster: Cluster, namespace: str, gateway: HostGateway, local_operator: Operator, node: str
) -> None:
    local_operator.start()
    model = {"source": "example/large", "revision": "main", "cache": CACHE}
    cluster.apply(service(model=model), namespace=namespace)
    fetch = f"{names.LABEL_COMPONENT}=fetch"
    [pod] = eventually(lambda: cluster.get_all("pods", namespace, fetch), within_s=90)
    name = pod["metadata"]["name"]
    # The test is the kubelet of its node, and answers for it.
    to_node = {"target": {"kind": "Node", "name": node}}
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/binding"
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, **to_node}
    cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(binding))
    gateway.progress[name] = {"stage": "downloading", "bytes": 3 * GIB, "total_bytes": 12 * GIB}
    client.CoreV1Api(cluster.api).patch_namespaced_pod_status(
        name,
        namespace,
        {"status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}},
    )

    def downloading() -> str | None:
        found: Manifest = cluster.get("modelservice", "chat", namespace) or {}
        told: str | None = (found["status"].get("startup") or {}).get("downloading")
        return told

    eventually(lambda: downloading() == "3.0 of 12.0 GiB (25%)", within_s=60)
    cached = condition(cluster, namespace, "ModelCached")
    assert cached["reason"] == "Downloading" and "3.0 of 12.0 GiB" in cached["message"]
    gateway.progress[name] = {"stage": "downloading", "bytes": 12 * GIB, "total_bytes": 12 * GIB}
    eventually(lambda: downloading() == "12.0 of 12.0 GiB (100%)", within_s=60)
