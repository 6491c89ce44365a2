"""Pods of a group that a quota refuses: its StatefulSets know why, LeaderWorkerSet does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from baton_operator import names
from cluster.baton_objects import Manifest, install_crds
from cluster.cluster import Cluster, eventually
from cluster.host_gateway import HostGateway
from cluster.leader_worker_sets import leader_worker_sets
from cluster.operator_services import condition, service, wait_for
from cluster.operator_under_test import PATIENT, Operator

GPU = "nvidia.com/gpu"
# The operator looks at the events of one object every 15 s; StatefulSets try again after longer and
# longer waits.
NOTICED_S = 120.0


@pytest.fixture(scope="module")
def operator(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """With LeaderWorkerSet's controller beside it; it asks for nothing that is forbidden."""
    install_crds(cluster)
    with (
        leader_worker_sets(cluster, tmp_path_factory.mktemp("lws")),
        HostGateway() as gateway,
        cluster.kwok_nodes(2, capacity={GPU: "8"}),
        cluster.namespace() as home,
    ):
        operator = Operator(cluster, home, None, gateway)
        operator.start(**PATIENT)
        yield operator
        operator.stop_all()
        assert operator.forbidden() == []


def quota(pods: int) -> Manifest:
    """Room for so many pods of the decode pool, which has all GPUs."""
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "gpus"},
        "spec": {"hard": {f"requests.{GPU}": str(2 * pods)}},
    }


def test_it_is_named_until_it_is_raised(
    cluster: Cluster, namespace: str, operator: Operator
) -> None:
    mock = {"engine": {"kind": "mock"}}
    wide = {"replicas": 1, "gpus": 2, "parallelism": {"tensor": 4, "nodes": 2}, **mock}
    pools = [
        {"name": "prefill", "role": "prefill", **mock},
        {"name": "decode", "role": "decode", **wide},
    ]
    cluster.apply(quota(0), namespace=namespace)
    cluster.apply(service(pools=pools), namespace=namespace)

    def refused(name: str) -> bool:
        """Whether it is told which StatefulSet the quota keeps from making a pod."""
        told = condition(cluster, namespace, "Degraded")
        parts = (f"StatefulSet {name}:", "exceeded quota: gpus")
        return told.get("reason") == "QuotaExceeded" and all(p in told["message"] for p in parts)

    [leaders] = eventually(lambda: _sets(cluster, namespace), within_s=NOTICED_S)
    eventually(lambda: refused(leaders), within_s=NOTICED_S)
    assert condition(cluster, namespace, "DecodeReady")["reason"] == "QuotaExceeded"
    # The leader has room now, and the other pod of its group has not.
    cluster.apply(quota(1), namespace=namespace)
    eventually(lambda: refused(f"{leaders}-0"), within_s=NOTICED_S)
    cluster.kubectl("delete", "resourcequota", "gpus", "-n", namespace)
    wait_for(cluster, namespace, "Degraded", "False", within_s=NOTICED_S)
    wait_for(cluster, namespace, "Ready", "True")


def _sets(cluster: Cluster, namespace: str) -> list[str]:
    found = cluster.get_all("leaderworkersets", namespace, names.LABEL_POOL)
    return [each["metadata"]["name"] for each in found]
