"""What makes the workers of a revision: a Deployment, or groups of pods."""

from __future__ import annotations

from typing import Any

import yaml

from baton.core.settings import Settings
from baton_operator.resources.context import Context
from baton_operator.resources.revision_config import revision_config
from baton_operator.resources.worker_deployment import workload
from fakes.model_services import container, context_of, with_pool

TEMPLATES = ("leaderTemplate", "workerTemplate")
WIDE = {"gpus": 8, "parallelism": {"tensor": 8, "pipeline": 2, "nodes": 2}}


def made(context: Context, revision: str = "r1") -> dict[str, Any]:
    return workload(context, context.spec.pools[0], revision, 3)


def test_a_pool_of_single_pods_is_a_deployment() -> None:
    found = made(context_of())
    assert (found["kind"], found["metadata"]["name"]) == ("Deployment", "demo-prefill-r1")
    assert found["spec"]["replicas"] == 3
    assert found["spec"]["selector"]["matchLabels"]["baton.dev/revision"] == "r1"


def test_a_restart_by_hand_keeps_to_the_pools_limits() -> None:
    context = with_pool(context_of(), rollout={"maxSurge": 0, "maxUnavailable": 1})
    assert made(context)["spec"]["strategy"]["rollingUpdate"] == {
        "maxSurge": 0,
        "maxUnavailable": 1,
    }


def test_revisions_share_neither_deployment_nor_settings() -> None:
    old, new = made(context_of(), "r1"), made(context_of(), "r2")
    assert old["metadata"]["name"] != new["metadata"]["name"]
    volumes = [
        next(each for each in one["spec"]["template"]["spec"]["volumes"] if "configMap" in each)
        for one in (old, new)
    ]
    assert [each["configMap"]["name"] for each in volumes] == ["demo-r1", "demo-r2"]


def test_settings_of_a_revision_never_change() -> None:
    found = revision_config(context_of(), "r1")
    assert (found["metadata"]["name"], found["immutable"]) == ("demo-r1", True)
    assert found["data"].keys() == {"prefill.yaml", "decode.yaml"}


def test_a_worker_over_several_nodes_is_a_group_of_pods() -> None:
    found = made(with_pool(context_of(), **WIDE))
    assert found["kind"] == "LeaderWorkerSet"
    groups = found["spec"]["leaderWorkerTemplate"]
    assert (found["spec"]["replicas"], groups["size"]) == (3, 2)
    leader, other = groups["leaderTemplate"], groups["workerTemplate"]
    command = container(leader)["command"]
    assert command[:2] == ["baton", "worker"]
    # The address is set in the container by LeaderWorkerSet, and put in by the kubelet.
    assert container(other)["command"] == [*command, "--join", "$(LWS_LEADER_ADDRESS)"]
    assert leader["metadata"]["labels"] == other["metadata"]["labels"]
    assert groups["restartPolicy"] == "RecreateGroupOnPodRestart"


def test_only_a_worker_over_several_nodes_waits_for_others() -> None:
    context = with_pool(context_of(), **WIDE)
    config = Settings.model_validate(
        yaml.safe_load(revision_config(context, "r1")["data"]["all.yaml"])
    )
    assert (config.worker.ray, config.worker.num_nodes) == (True, 2)
    assert "num_nodes" not in revision_config(context_of(), "r1")["data"]["decode.yaml"]


def test_only_the_leader_of_a_group_is_a_worker_to_be_asked() -> None:
    groups = made(with_pool(context_of(), **WIDE))["spec"]["leaderWorkerTemplate"]
    assert {"startupProbe", "livenessProbe", "readinessProbe", "ports"} <= container(
        groups["leaderTemplate"]
    ).keys()
    other = container(groups["workerTemplate"])
    assert not {"startupProbe", "livenessProbe", "readinessProbe", "ports"} & other.keys()
    # The leader drains with their GPUs.
    assert len({groups[each]["spec"]["terminationGracePeriodSeconds"] for each in TEMPLATES}) == 1
    assert other["resources"] == container(groups["leaderTemplate"])["resources"]
    assert other["volumeMounts"] == container(groups["leaderTemplate"])["volumeMounts"]
