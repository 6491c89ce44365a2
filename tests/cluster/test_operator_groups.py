"""Workers of several pods: the operator beside LeaderWorkerSet's own controller.

The tests go in their order: without the CRD, then with it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from baton_operator import names
from cluster.baton_objects import EXAMPLES, Manifest
from cluster.cluster import Cluster, eventually
from cluster.host_gateway import HostGateway
from cluster.leader_worker_sets import leader_worker_sets
from cluster.operator_services import condition, service, wait_for
from cluster.operator_under_test import Operator, chart_rules

pytestmark = pytest.mark.usefixtures("operator")

MOCK = {"engine": {"kind": "mock"}}
# The operator looks for CRDs every 3 s.
NOTICED_S = 60.0
SETS = "leaderworkersets"


@pytest.fixture(scope="module")
def early(cluster: Cluster) -> Iterator[str]:
    """A namespace with a service that is older than the CRD."""
    with cluster.namespace() as name:
        cluster.apply(wide(), namespace=name)
        yield name


@pytest.fixture(scope="module")
def groups(
    cluster: Cluster, early: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """The kind is served, and somebody makes its pods."""
    with leader_worker_sets(cluster, tmp_path_factory.mktemp("lws")):
        yield


def wide(replicas: int = 2, **spec: object) -> Manifest:
    """A service whose decode workers are two pods each."""
    pools = [
        {"name": "prefill", "role": "prefill", **MOCK},
        {
            **{"name": "decode", "role": "decode", "replicas": replicas, **MOCK},
            "parallelism": {"tensor": 4, "nodes": 2},
        },
    ]
    return service(pools=pools, **spec)


def pods(cluster: Cluster, namespace: str) -> list[str]:
    """Names of the decode pool's that stay."""
    found = cluster.get_all("pods", namespace, f"{names.LABEL_POOL}=decode")
    return sorted(
        each["metadata"]["name"] for each in found if "deletionTimestamp" not in each["metadata"]
    )


def the_set(cluster: Cluster, namespace: str) -> Manifest:
    [found] = cluster.get_all(SETS, namespace)
    return found


def uid(cluster: Cluster, namespace: str) -> str:
    found = cluster.get("modelservice", "chat", namespace)
    assert found is not None
    return str(found["metadata"]["uid"])


def test_without_the_crd_it_says_what_to_install(cluster: Cluster, early: str) -> None:
    stalled = wait_for(cluster, early, "Stalled", "True")
    assert stalled["reason"] == "LeaderWorkerSetMissing"
    assert "pool decode" in stalled["message"]
    assert "https://lws.sigs.k8s.io" in stalled["message"]
    assert not cluster.get_all("deployments", early, names.LABEL_POOL)


def test_ranks_that_the_engine_has_not_are_refused(cluster: Cluster, namespace: str) -> None:
    asked = wide()
    for each in asked["spec"]["pools"]:
        each["engine"] = {"kind": "torch"}
    cluster.apply(asked, namespace=namespace)
    stalled = wait_for(cluster, namespace, "Stalled", "True")
    assert stalled["reason"] == "ParallelismUnsupported"
    assert "set tensor, pipeline and nodes to 1" in stalled["message"]


def test_a_crd_that_comes_later_is_noticed(cluster: Cluster, early: str, groups: None) -> None:
    wait_for(cluster, early, "Ready", "True", within_s=NOTICED_S + 90)
    assert condition(cluster, early, "Stalled")["status"] == "False"
    found = the_set(cluster, early)
    # What the schema's defaults and pruning left of it is what was meant.
    template = found["spec"]["leaderWorkerTemplate"]
    assert (found["spec"]["replicas"], template["size"]) == (2, 2)
    assert template["restartPolicy"] == "RecreateGroupOnPodRestart"
    assert found["spec"]["startupPolicy"] == "LeaderCreated"
    joining = template["workerTemplate"]["spec"]["containers"][0]["command"]
    assert joining[-2:] == ["--join", "$(LWS_LEADER_ADDRESS)"]
    name = found["metadata"]["name"]
    assert pods(cluster, early) == [f"{name}-0", f"{name}-0-1", f"{name}-1", f"{name}-1-1"]


def test_only_leaders_are_counted(cluster: Cluster, early: str, groups: None) -> None:
    found = cluster.get("modelservice", "chat", early)
    assert found is not None
    assert found["status"]["workers"] == "3/3"
    pool = cluster.get("workerpool", "chat-decode", early)
    assert pool is not None
    assert (pool["status"]["replicas"], pool["status"]["readyReplicas"]) == (2, 2)
    name = the_set(cluster, early)["metadata"]["name"]
    picked = cluster.get_all("pods", early, pool["status"]["selector"])
    assert {each["metadata"]["name"] for each in picked} == {f"{name}-0", f"{name}-1"}


def test_defaults_of_the_schema_are_not_written_again(
    cluster: Cluster, early: str, operator: Operator, groups: None
) -> None:
    version = the_set(cluster, early)["metadata"]["generation"]
    cluster.apply(wide(gateway={"replicas": 3}), namespace=early)
    eventually(lambda: condition(cluster, early, "GatewayReady")["observedGeneration"] == 2)
    assert the_set(cluster, early)["metadata"]["generation"] == version


def test_the_highest_group_drains_and_goes(
    cluster: Cluster, early: str, gateway: HostGateway, groups: None
) -> None:
    cluster.kubectl("scale", "workerpool/chat-decode", "--replicas=3", "-n", early)
    eventually(lambda: len(pods(cluster, early)) == 6, within_s=60)
    eventually(lambda: _ready(cluster, early) == 3, within_s=60)
    name, owner = the_set(cluster, early)["metadata"]["name"], uid(cluster, early)
    # The last one is the busiest, and yet the one that will be removed.
    for group in range(3):
        gateway.busy(owner, f"{name}-{group}", running=group)
    cluster.kubectl("scale", "workerpool/chat-decode", "--replicas=2", "-n", early)
    eventually(lambda: gateway.drained(owner) == [f"{name}-2"], within_s=60)
    assert len(pods(cluster, early)) == 6
    gateway.busy(owner, f"{name}-2", running=0)
    left = [f"{name}-0", f"{name}-0-1", f"{name}-1", f"{name}-1-1"]
    eventually(lambda: pods(cluster, early) == left, within_s=60)
    assert gateway.drained(owner) == [f"{name}-2"]
    wait_for(cluster, early, "Ready", "True")
    for group in range(2):
        gateway.busy(owner, f"{name}-{group}", running=0)


def test_a_pod_that_is_deleted_ends_its_worker_and_all_come_back(
    cluster: Cluster, early: str, groups: None
) -> None:
    before = {
        each["metadata"]["name"]: each["metadata"]["uid"]
        for each in cluster.get_all("pods", early, f"{names.LABEL_POOL}=decode")
    }
    name = the_set(cluster, early)["metadata"]["name"]
    # As long as it takes to be seen.
    delay = "test.baton.dev/deletion-delay=2s"
    cluster.kubectl("annotate", "pod", f"{name}-1-1", delay, "-n", early)
    cluster.kubectl("delete", "pod", f"{name}-1-1", "-n", early, "--wait=false")

    def renewed() -> set[str]:
        return {
            each["metadata"]["name"]
            for each in cluster.get_all("pods", early, f"{names.LABEL_POOL}=decode")
            if before.get(each["metadata"]["name"]) != each["metadata"]["uid"]
        }

    eventually(lambda: renewed() == {f"{name}-1", f"{name}-1-1"}, within_s=60)
    eventually(lambda: _ready(cluster, early) == 2, within_s=60)


def test_a_new_revision_is_another_set(cluster: Cluster, early: str, groups: None) -> None:
    old = the_set(cluster, early)["metadata"]["name"]
    cluster.apply(wide(image="registry.example/baton:2"), namespace=early)

    def replaced() -> bool:
        found = cluster.get_all(SETS, early)
        return len(found) == 1 and found[0]["metadata"]["name"] != old

    eventually(replaced, within_s=120, every_s=0.5)
    new = the_set(cluster, early)["metadata"]["name"]
    left = [f"{new}-0", f"{new}-0-1", f"{new}-1", f"{new}-1-1"]
    eventually(lambda: pods(cluster, early) == left, within_s=60)
    wait_for(cluster, early, "Ready", "True")


def test_the_example_comes_up(cluster: Cluster, namespace: str, groups: None) -> None:
    example = yaml.safe_load((EXAMPLES / "multi-node.yaml").read_text(encoding="utf-8"))
    example["spec"]["store"] = service()["spec"]["store"]
    cluster.apply(example, namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True", name=example["metadata"]["name"])


def test_a_service_that_goes_takes_its_groups_along(
    cluster: Cluster, early: str, groups: None
) -> None:
    cluster.kubectl("delete", "modelservice", "chat", "-n", early)
    eventually(lambda: not cluster.get_all(SETS, early), within_s=60)
    eventually(lambda: not pods(cluster, early), within_s=60)


def test_each_right_to_the_kind_is_used(operator: Operator, groups: None) -> None:
    """After all of the above."""
    used = {verb for verb, resource, _ in operator.requests() if resource == SETS}
    [rule] = [each for each in chart_rules() if SETS in each["resources"]]
    # Server-side apply is a patch; that it needs the right to create, too, is not on record.
    assert set(rule["verbs"]) - used == {"create"}


def _ready(cluster: Cluster, namespace: str) -> int:
    found = cluster.get("workerpool", "chat-decode", namespace) or {}
    count: int = (found.get("status") or {}).get("readyReplicas", 0)
    return count
