"""A pod's manifest in the words of the operator."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from baton_operator import names
from baton_operator.seen import Seen, ServiceSeen, observed_pod
from baton_operator.types.model_service import ModelServiceSpec
from fakes.service_specs import pair


def manifest(
    status: dict[str, Any] | None = None,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
) -> dict[str, Any]:
    own = names.worker_labels("demo", "dec", "decode", "r1")
    return {
        "metadata": {
            "name": "demo-dec-r1-x",
            "uid": "u",
            "labels": {**own, **(labels or {})},
            "annotations": annotations or {},
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "baton", "image": "b:1"}]},
        "status": status or {},
    }


def waiting(reason: str, message: str = "", last: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {"state": {"waiting": {"reason": reason, "message": message}}}
    if last:
        found["lastState"] = {"terminated": {"exitCode": 1, "message": last}}
    return found


def again(*, ready: bool) -> dict[str, Any]:
    last = {"exitCode": 137, "reason": "OOMKilled", "message": "no memory"}
    return {
        "ready": ready,
        "restartCount": 1,
        "state": {"running": {}},
        "lastState": {"terminated": last},
    }


def test_running_worker() -> None:
    pod = observed_pod(
        manifest(
            {
                "phase": "Running",
                "podIP": "10.0.0.9",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"restartCount": 2, "state": {"running": {}}}],
            }
        )
    )
    assert (pod.component, pod.pool, pod.role, pod.revision) == ("worker", "dec", "decode", "r1")
    assert (pod.ready, pod.node, pod.ip, pod.restarts, pod.image) == (
        *(True, "n1", "10.0.0.9", 2, "b:1"),
    )
    assert (pod.reason, pod.drain_since, pod.deletion_cost, pod.group_index) == ("", None, 0, None)


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [
        ({"containerStatuses": [waiting("ContainerCreating")]}, "", ""),
        ({"containerStatuses": [waiting("ErrImagePull", "denied")]}, "ErrImagePull", "denied"),
        # What it said before it ended tells more than how long the kubelet waits.
        (
            {"containerStatuses": [waiting("CrashLoopBackOff", "back-off 40s", "no CUDA")]},
            "CrashLoopBackOff",
            "no CUDA",
        ),
        ({"initContainerStatuses": [waiting("PodInitializing")]}, "", ""),
        (
            {
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/3 nodes",
                    }
                ]
            },
            "Unschedulable",
            "0/3 nodes",
        ),
        ({"phase": "Failed", "reason": "Evicted", "message": "disk"}, "Evicted", "disk"),
        # Running again, and not ready: why it had to be started anew.
        ({"containerStatuses": [again(ready=False)]}, "OOMKilled", "no memory"),
        ({"containerStatuses": [again(ready=True)]}, "", ""),
        (
            {"containerStatuses": [{"state": {"terminated": {"exitCode": 137}}}]},
            "Error",
            "",
        ),
    ],
)
def test_what_keeps_a_pod_from_being_ready(
    status: dict[str, Any], reason: str, message: str
) -> None:
    pod = observed_pod(manifest(status))
    assert (pod.reason, pod.message) == (reason, message)


def test_marks_of_a_victim_and_nonsense_in_them() -> None:
    marks = {names.ANNOTATION_DELETION_COST: "-1000", names.ANNOTATION_DRAIN_SINCE: "1700000000.5"}
    pod = observed_pod(manifest(annotations=marks))
    assert (pod.deletion_cost, pod.drain_since) == (-1000, 1700000000.5)
    pod = observed_pod(manifest(annotations=dict.fromkeys(marks, "soon")))
    assert (pod.deletion_cost, pod.drain_since) == (0, None)


def test_of_a_group_its_leader_stands_for_the_worker() -> None:
    leader = {names.LABEL_GROUP: "3", names.LABEL_GROUP_POD: "0"}
    first = observed_pod(manifest(labels=leader))
    assert (first.group_index, first.group_pod) == (3, 0)
    other = observed_pod(manifest(labels={**leader, names.LABEL_GROUP_POD: "1"}))
    assert (other.group_index, other.group_pod) == (3, 1)
    service = ServiceSeen("demo", "team", "u", 1, ModelServiceSpec.model_validate(pair(1, 1)))
    assert Seen(service, 0.0, pods=(first, other)).workers == (first,)


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            "File descriptor limit 1024\n{}\nbaton: Ray did not start: time\nbaton: out\n",
            "Ray did not start: time\nout",
        ),
        ("baton: the store does not answer\nTraceback\nOSError: 28", None),
        ("", None),
    ],
)
def test_baton_s_own_words_come_before_what_libraries_warned_of(
    log: str, message: str | None
) -> None:
    ended = {"terminated": {"exitCode": 1, "message": log}}
    for container in ({"state": ended}, waiting("CrashLoopBackOff", last=log)):
        pod = observed_pod(manifest({"containerStatuses": [container]}))
        assert pod.message == (log if message is None else message)


def test_result_of_a_fetch_pod() -> None:
    labels = {**names.labels("demo", "fetch"), "batch.kubernetes.io/job-name": "demo-fetch-1"}
    ended = {"terminated": {"exitCode": 0, "message": '{"commit": "9f2c"}'}}
    found = manifest({"phase": "Succeeded", "containerStatuses": [{"state": ended}]}, labels)
    pod = observed_pod(found)
    assert (pod.component, pod.job, pod.result) == ("fetch", "demo-fetch-1", '{"commit": "9f2c"}')


@given(st.text(max_size=63))
@example("nan")
@example("inf")
@example("-1")
@example("1e400")
@example("9" * 5000)
def test_what_anybody_may_write_on_a_pod_is_a_number_or_nothing(text: str) -> None:
    pod = observed_pod(
        manifest(
            labels={names.LABEL_GROUP: text, names.LABEL_GROUP_POD: text},
            annotations={names.ANNOTATION_DELETION_COST: text, names.ANNOTATION_DRAIN_SINCE: text},
        )
    )
    assert pod.group_index is None or pod.group_index == int(text) >= 0
    assert pod.group_pod == (0 if pod.group_index is None else pod.group_index)
    assert pod.drain_since is None or math.isfinite(pod.drain_since)
    assert abs(pod.deletion_cost) < 10**10


@given(st.integers(0, 2**31 - 1), st.integers(-(2**31), 2**31 - 1))
def test_whole_numbers_are_read_as_they_are_written(index: int, cost: int) -> None:
    pod = observed_pod(
        manifest(
            labels={names.LABEL_GROUP: str(index)},
            annotations={names.ANNOTATION_DELETION_COST: str(cost)},
        )
    )
    assert (pod.group_index, pod.deletion_cost) == (index, cost)
