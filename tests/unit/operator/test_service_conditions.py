"""What a service says of itself in each state that it can be in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from baton_operator import names
from baton_operator.actions import Apply, PatchStatus
from baton_operator.decide.reconcile import reconcile, refusal
from baton_operator.decide.troubles import Trouble
from baton_operator.resources.context import Installation
from baton_operator.seen import EventSeen, PodSeen, Progress, Refused, Seen, Signals
from fakes.kube_groups import is_other
from fakes.kube_world import COMMIT, UID, KubeWorld
from fakes.service_specs import pair, pool

HUB = {"source": "acme/model-8b", "revision": "v1"}
BAD_TEMPLATE = {"spec": {"containers": "one"}}
SHARED = {"type": "ExistingClaim", "claimName": "models"}


def service(**more: Any) -> KubeWorld:
    return KubeWorld({**pair(1, 1), **more})


def running(**more: Any) -> KubeWorld:
    world = service(**more)
    world.settle()
    return world


def told(world: KubeWorld, change: Callable[[Seen], Seen] = lambda seen: seen) -> dict[str, Any]:
    """Conditions by type after a round of what was seen, changed."""
    for action in reconcile(change(world.seen()), world.installation):
        world.perform(action)
    return {each["type"]: each for each in world.status["conditions"]}


def reasons(found: dict[str, Any], *types: str) -> list[tuple[str, str]]:
    return [(found[each]["status"], found[each]["reason"]) for each in types]


def test_service_that_is_new() -> None:
    world = service()
    found = told(world)
    assert world.status["phase"] == "Pending"
    assert reasons(found, "Ready", "Stalled") == [
        ("False", "WorkersStarting"),
        ("False", "NotStalled"),
    ]
    assert {each["observedGeneration"] for each in found.values()} == {1}


def test_service_that_serves() -> None:
    world = running(slo={"ttftSeconds": 1.0, "tpotSeconds": 0.1})
    found = told(world, lambda seen: replace(seen, signals=Signals(ttft_s=0.5, tpot_s=0.04321)))
    assert {kind: each["status"] for kind, each in found.items()} == {
        **dict.fromkeys(("Ready", "PrefillReady", "DecodeReady", "GatewayReady"), "True"),
        **dict.fromkeys(("ModelCached", "SLOMet", "TransportReady"), "True"),
        **dict.fromkeys(("Stalled", "Progressing", "Degraded"), "False"),
    }
    assert world.status["phase"] == "Ready"
    assert world.status["workers"] == "2/2"
    assert world.status["url"] == "http://demo-gateway.team.svc:8000"
    assert world.status["slo"] == {"ttftSeconds": 0.5, "tpotSeconds": 0.0432}


@pytest.mark.parametrize(
    ("signals", "expected"),
    [
        (None, ("Unknown", "NoGateway")),
        (Signals(), ("Unknown", "NoRequests")),
        (Signals(ttft_s=2.0), ("False", "Missed")),
    ],
)
def test_objectives(signals: Signals | None, expected: tuple[str, str]) -> None:
    world = running(slo={"ttftSeconds": 1.0})
    found = told(world, lambda seen: replace(seen, signals=signals))
    assert reasons(found, "SLOMet") == [expected]


def test_workers_of_several_nodes_wait_for_the_kind_that_makes_them() -> None:
    wide = pool("dec", "decode", 1, parallelism={"tensor": 4, "nodes": 2})
    world = service(pools=[pool("pre", "prefill", 1), wide])
    found = told(world)
    assert reasons(found, "Stalled", "Ready") == [
        ("True", "LeaderWorkerSetMissing"),
        ("False", "LeaderWorkerSetMissing"),
    ]
    assert found["Stalled"]["message"] == (
        "pool dec has parallelism.nodes above 1, for which the cluster has no LeaderWorkerSet: "
        "install it (https://lws.sigs.k8s.io), or set nodes to 1"
    )
    assert world.status["phase"] == "Stalled"
    assert not world.store.of_kind("Deployment")
    world.kinds = frozenset({"LeaderWorkerSet"})
    world.settle()
    assert reasons(told(world), "Stalled", "Ready") == [
        ("False", "NotStalled"),
        ("True", "Serving"),
    ]
    assert [each["metadata"]["labels"][names.LABEL_POOL] for each in sets(world)] == ["dec"]


def test_a_pod_that_a_group_lacks_is_told() -> None:
    wide = pool("dec", "decode", 1, parallelism={"tensor": 4, "nodes": 2})
    world = service(pools=[pool("pre", "prefill", 1), wide])
    world.kinds = frozenset({"LeaderWorkerSet"})
    world.settle()
    [other] = [each for each in world.pods("worker") if is_other(each)]
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    other["status"] = {"conditions": [{**unscheduled, "message": "0/3 nodes are available"}]}
    found = told(world)
    assert reasons(found, "Degraded") == [("True", "Unschedulable")]
    assert other["metadata"]["name"] in found["Degraded"]["message"]


@pytest.mark.parametrize("parallelism", [{"tensor": 2}, {"pipeline": 2}, {"tensor": 2, "nodes": 2}])
def test_ranks_that_the_engine_has_not_are_refused(parallelism: dict[str, int]) -> None:
    pools = [
        pool("pre", "prefill", 1, engine={}),
        pool("dec", "decode", 1, engine={}, parallelism=parallelism),
    ]
    world = service(pools=pools)
    found = told(world)
    assert reasons(found, "Stalled", "Ready", "Degraded") == [
        ("True", "ParallelismUnsupported"),
        ("False", "ParallelismUnsupported"),
        ("False", "AsExpected"),
    ]
    assert found["Stalled"]["message"] == (
        "pool dec: the torch engine of this version computes on one rank, and what parallelism "
        "asks for beyond it would stay unused; set tensor, pipeline and nodes to 1"
    )
    assert not world.store.of_kind("Deployment")
    world.edit({"pools": [pools[0], pool("dec", "decode", 1, engine={})]})
    world.settle()
    assert reasons(told(world), "Stalled") == [("False", "NotStalled")]
    assert len(world.store.of_kind("Deployment")) == 3


def sets(world: KubeWorld) -> list[dict[str, Any]]:
    return world.store.of_kind("LeaderWorkerSet")


def test_monitors_are_made_of_kinds_that_the_cluster_has() -> None:
    world = service()
    world.installation = replace(world.installation, monitors=True)
    world.kinds = frozenset({"PodMonitor"})
    world.settle()
    assert len(world.store.of_kind("PodMonitor")) == 1
    assert not world.store.of_kind("ServiceMonitor")


@pytest.mark.parametrize(
    "more",
    [
        {"transport": {"profile": "node"}},
        {"transport": {"profile": "rdma", "rdma": {"resourceName": "rdma/hca"}}},
        {"model": {"source": "baton-tiny", "cache": {"type": "HostPath", "path": "/models"}}},
    ],
)
def test_namespace_that_forbids_what_the_profile_needs(more: dict[str, Any]) -> None:
    world = service(**more)
    found = told(world)
    assert reasons(found, "Stalled") == [("True", "ForbiddenByNamespace")]
    if "transport" in more:
        assert reasons(found, "TransportReady") == [("False", "ForbiddenByNamespace")]
    world.pod_security = "privileged"
    world.settle()
    assert world.status["phase"] == "Ready"


def test_no_image_and_no_store() -> None:
    world = service()
    del world.spec["image"]
    world.installation = Installation(key=b"k" * 32)
    found = told(world)
    assert reasons(found, "Stalled") == [("True", "ImageMissing")]
    assert "spec.store.redis" in found["Stalled"]["message"]


def test_pod_template_that_cannot_be_merged_changes_nothing() -> None:
    world = running()
    before = dict(world.store.objects)
    pools = [
        pool("pre", "prefill", 1, podTemplate=BAD_TEMPLATE),
        pool("dec", "decode", 1),
    ]
    world.edit({"pools": pools})
    found = told(world)
    assert reasons(found, "Stalled", "Ready") == [
        ("True", "PodTemplateInvalid"),
        ("True", "Serving"),
    ]
    assert world.store.objects.keys() == before.keys()


CASES = {
    "ImagePullFailed": {"reason": "ImagePullBackOff", "message": "not found"},
    "CrashLoop": {"reason": "CrashLoopBackOff", "message": "exit code 1"},
    "SecretMissing": {
        "reason": "CreateContainerConfigError",
        "message": 'secret "hub" not found',
    },
    "Unschedulable": {
        "reason": "Unschedulable",
        "message": "0/9 nodes are available: 9 Insufficient nvidia.com/gpu.",
    },
    "ClaimUnbound": {
        "reason": "Unschedulable",
        "message": "pod has unbound immediate PersistentVolumeClaims",
    },
    "PodFailing": {"reason": "UnexpectedAdmissionError", "message": "no GPU is healthy"},
}


@pytest.mark.parametrize("reason", CASES)
def test_pods_that_cannot_start(reason: str) -> None:
    world = service()
    told(world)
    world.controllers()

    def failing(seen: Seen) -> Seen:
        return replace(seen, pods=tuple(replace(pod, **CASES[reason]) for pod in seen.pods))

    found = told(world, failing)
    assert reasons(found, "Degraded", "DecodeReady") == [("True", reason), ("False", reason)]
    assert CASES[reason]["message"] in found["Degraded"]["message"]
    assert world.status["phase"] == "Degraded"


def test_a_pod_that_comes_up_again_after_it_crashed_still_crashes() -> None:
    world = service()
    told(world)
    world.controllers()
    again = {"phase": "Running", "restarts": 3, "reason": "OOMKilled", "message": "no memory"}

    def restarted(seen: Seen, **more: Any) -> Seen:
        return replace(seen, pods=tuple(replace(pod, **again, **more) for pod in seen.pods))

    found = told(world, restarted)
    assert reasons(found, "Degraded") == [("True", "CrashLoop")]
    assert "no memory (3 restarts)" in found["Degraded"]["message"]
    # One that drains is not ready on purpose, whatever was before.
    draining = told(world, lambda seen: restarted(seen, drain_since=1.0))
    assert reasons(draining, "Degraded") == [("False", "AsExpected")]


def test_a_forbidden_cache_is_not_the_transports_fault() -> None:
    cache = {"type": "HostPath", "path": "/models"}
    world = service(model={"source": "baton-tiny", "cache": cache})
    world.pod_security = "restricted"
    found = told(world)
    assert reasons(found, "Stalled", "TransportReady") == [
        ("True", "ForbiddenByNamespace"),
        ("Unknown", "NoWorker"),
    ]
    assert found["Stalled"]["message"].endswith("or take another cache")


def test_evicted_pod_is_news_only_until_another_serves() -> None:
    world = running()
    evicted = PodSeen("old", "u", "worker", "dec", "decode", phase="Failed", reason="Evicted")

    def with_evicted(seen: Seen, revision: str) -> Seen:
        return replace(seen, pods=(*seen.pods, replace(evicted, revision=revision)))

    current = world.status["revision"]["current"]
    assert reasons(told(world, lambda s: with_evicted(s, current)), "Degraded") == [
        ("False", "AsExpected")
    ]
    assert reasons(told(world, lambda s: with_evicted(s, "r0")), "Degraded") == [
        ("True", "PodFailing")
    ]


@pytest.mark.parametrize(
    ("reason", "trouble"),
    [
        (
            "QuotaExceeded",
            Refused("Deployment", "d", 403, "Forbidden", "d is forbidden: exceeded quota: gpus"),
        ),
        ("NameTaken", Refused("Service", "demo-gateway", 409, "NotOurs", "is not this service's")),
        ("Invalid", Refused("Deployment", "d", 422, "Invalid", "spec.template: bad")),
        (
            "SecretMissing",
            EventSeen("Pod", "p", "FailedMount", 'MountVolume failed: secret "tls" not found', 1.0),
        ),
        (
            "ForbiddenByNamespace",
            EventSeen("Job", "j", "FailedCreate", 'violates PodSecurity "restricted:latest"', 1.0),
        ),
        (
            "QuotaExceeded",
            EventSeen("StatefulSet", "s", "FailedCreate", "create Pod: exceeded quota: gpus", 1.0),
        ),
        (
            "ClaimUnbound",
            EventSeen(
                *("PersistentVolumeClaim", "c", "ProvisioningFailed"),
                *('storageclass.storage.k8s.io "fast" not found', 1.0),
            ),
        ),
    ],
)
def test_refusals_and_events(reason: str, trouble: Refused | EventSeen) -> None:
    world = service()

    def troubled(seen: Seen) -> Seen:
        if isinstance(trouble, Refused):
            return replace(seen, refused=(trouble,))
        return replace(seen, events=(trouble,))

    found = told(world, troubled)
    assert reasons(found, "Degraded") == [("True", reason)]
    is_final = reason in ("NameTaken", "Invalid")
    assert found["Stalled"]["status"] == ("True" if is_final else "False")


def test_quota_that_a_deployment_reports() -> None:
    world = running()
    name = names.gateway("demo")
    failure = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: pods"}
    world.store.objects["Deployment", name]["status"]["conditions"] = [failure]
    assert reasons(told(world), "Degraded", "Ready") == [
        ("True", "QuotaExceeded"),
        ("True", "Serving"),
    ]


def test_own_secret_is_written_again_when_a_pod_misses_it() -> None:
    world = running()
    assert not [each for each in world.actions() if isinstance(each, Apply)]
    message = f'secret "{names.internal_secret("demo", UID)}" not found'
    missed = EventSeen("Pod", "p", "FailedMount", message, 1.0)
    for change in ({"events": (missed,)}, {"rewrite_secrets": True}):
        actions = reconcile(replace(world.seen(), **change), world.installation)
        applied = [each.manifest["kind"] for each in actions if isinstance(each, Apply)]
        assert applied == ["Secret"]


def test_model_is_fetched_before_workers_are_made() -> None:
    world = service(model={**HUB, "cache": SHARED})
    found = told(world)
    assert reasons(found, "ModelCached", "Ready") == [
        ("False", "Downloading"),
        ("False", "Downloading"),
    ]
    assert not world.store.of_kind("Deployment")
    world.controllers()
    (fetcher,) = world.pods("fetch")
    progress = {fetcher["metadata"]["name"]: Progress("downloading", 3 << 30, 12 << 30)}
    found = told(world, lambda seen: replace(seen, progress=progress))
    assert found["ModelCached"]["message"].endswith("3.0 of 12.0 GiB (25%)")
    assert world.status["startup"] == {"downloading": "3.0 of 12.0 GiB (25%)"}

    world.settle()
    assert world.status["model"] == {**HUB, "requested": "v1", "revision": COMMIT}
    assert world.status["phase"] == "Ready"
    # The Job is not needed to know it, and not run again.
    (job,) = world.store.of_kind("Job")
    world.store.delete(("Job", job["metadata"]["name"]))
    world.settle()
    assert not world.store.of_kind("Job")


def test_another_model_is_fetched_while_the_old_one_serves() -> None:
    world = running(model={**HUB, "cache": SHARED})
    old = world.status["revision"]["current"]
    world.edit({"model": {**HUB, "revision": "v2", "cache": SHARED}})
    found = told(world)
    assert reasons(found, "ModelCached", "Ready") == [("False", "Downloading"), ("True", "Serving")]
    assert world.status["model"]["requested"] == "v1"
    world.scale("dec", 2)
    told(world)
    assert world.store.objects["Deployment", f"demo-dec-{old}"]["spec"]["replicas"] == 2
    world.settle()
    assert world.status["model"]["requested"] == "v2"


def test_fetch_that_failed() -> None:
    world = service(model={**HUB, "cache": SHARED})
    told(world)
    (job,) = world.store.of_kind("Job")
    failed = {"type": "Failed", "status": "True", "message": "BackoffLimitExceeded"}
    job["status"] = {"conditions": [failed]}
    found = told(world)
    assert reasons(found, "ModelCached", "Stalled") == [
        ("False", "FetchFailed"),
        ("True", "FetchFailed"),
    ]
    assert job["metadata"]["name"] in found["Stalled"]["message"]


@pytest.mark.parametrize(
    "more",
    [
        {"model": {**HUB, "cache": SHARED}},
        {"transport": {"profile": "node"}},
        {"pools": [pool("pre", "prefill", 1), pool("dec", "decode", 1, podTemplate=BAD_TEMPLATE)]},
    ],
)
def test_who_waits_does_nothing_meanwhile(more: dict[str, Any]) -> None:
    for world in (service(**more), running()):
        world.edit(more)
        for _ in range(3):
            told(world)
        assert world.actions() == []


def test_service_scaled_to_zero_says_so() -> None:
    world = running()
    world.scale("pre", 0)
    world.scale("dec", 0)
    world.settle()
    found = told(world)
    assert reasons(found, "Ready", "DecodeReady", "Progressing") == [
        ("False", "ScaledToZero"),
        ("False", "ScaledToZero"),
        ("False", "Complete"),
    ]


def test_time_of_a_condition_moves_with_its_status_alone() -> None:
    world = running(slo={"ttftSeconds": 1.0})
    before = told(world, lambda seen: replace(seen, signals=None))
    world.now_s += 60
    world.edit(pair(1, 1, maxSurge=2))
    after = told(world, lambda seen: replace(seen, signals=Signals()))
    assert after["SLOMet"]["reason"] != before["SLOMet"]["reason"]
    assert {k: v["lastTransitionTime"] for k, v in after.items()} == {
        k: v["lastTransitionTime"] for k, v in before.items()
    }
    assert {each["observedGeneration"] for each in after.values()} == {2}


def test_events_come_once_for_each_turn() -> None:
    world = running()
    world.events.clear()
    for pod in world.pods("worker"):
        world.crash(pod)
    for _ in range(3):
        told(world)
    lost = [each for each in world.events if each.message.startswith("Ready is False")]
    assert [(each.type, each.reason) for each in lost] == [("Warning", "WorkersStarting")]
    world.settle()
    again = [each for each in world.events if each.message.startswith("Ready is True")]
    assert [each.type for each in again] == ["Normal"]


def test_route_without_its_kind_is_told_and_left_out() -> None:
    world = running(gateway={"httpRoute": {"parentRefs": [{"name": "edge"}]}})
    assert reasons(told(world), "Degraded", "Ready") == [
        ("True", "GatewayApiMissing"),
        ("True", "Serving"),
    ]
    world.kinds = frozenset({"HTTPRoute"})
    world.settle()
    assert len(world.store.of_kind("HTTPRoute")) == 1
    world.edit({"gateway": {}})
    world.settle()
    assert not world.store.of_kind("HTTPRoute")


def test_nothing_is_done_to_a_service_that_is_being_deleted() -> None:
    world = running()
    world.deleting = True
    world.store.objects.clear()
    assert world.actions() == []


def test_spec_that_cannot_be_read_is_said_once() -> None:
    world = running()
    bad = Trouble("SpecInvalid", "spec.pools: bad")
    actions = refusal("demo", 7, world.status, bad, world.now_s)
    status = next(each.status for each in actions if isinstance(each, PatchStatus))
    found = {each["type"]: each for each in status["conditions"]}
    assert reasons(found, "Stalled", "Ready") == [
        ("True", "SpecInvalid"),
        ("Unknown", "SpecInvalid"),
    ]
    assert (status["observedGeneration"], status["phase"]) == (7, "Stalled")
    assert refusal("demo", 7, status, bad, world.now_s + 60) == []
