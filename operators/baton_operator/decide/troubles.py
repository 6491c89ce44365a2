"""What stands in the way, in words of this operator: from what kubelet, scheduler and others say.

A blocking one keeps the operator from making workers at all; any other may pass by itself (a
quota is raised, a node joins, a Secret appears), so that the work goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from baton_operator.seen import LEADER_WORKER_SET, Manifest, PodSeen, Seen
from baton_operator.types.model_service import ModelServiceSpec
from baton_operator.types.pools import PoolSpec

IMAGE_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
)
NO_CONFIG = frozenset({"CreateContainerConfigError", "FailedMount"})


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is not as it should be."""

    reason: str
    message: str


def blocking_troubles(seen: Seen, image: str | None, has_store: bool) -> list[Trouble]:
    """What has to be changed by somebody before workers can be made.

    `has_store`: whether the operator has a store for services that bring none.
    """
    return [
        trouble
        for trouble in (
            _no_image(image),
            _no_store(seen, has_store),
            _unsupported_ranks(seen),
            _no_leader_worker_set(seen),
            _forbidden(seen),
        )
        if trouble is not None
    ]


def passing_troubles(seen: Seen) -> list[Trouble]:
    """What is seen to go wrong now, each kind once, the most telling first."""
    found: dict[str, Trouble] = {}
    for trouble in (
        *_no_routes(seen),
        *_refusals(seen),
        *_of_events(seen),
        *_of_pods(seen),
        *_of_workloads(seen),
    ):
        found.setdefault(trouble.reason, trouble)
    return list(found.values())


def of_pod(pod: PodSeen) -> Trouble | None:
    """What keeps a pod from being ready."""
    about = f"pod {pod.name}: {pod.message or pod.reason}"
    if pod.reason in IMAGE_REASONS:
        return Trouble("ImagePullFailed", about)
    if pod.reason in NO_CONFIG:
        return Trouble(_missing(pod.message), about)
    if pod.drain_since is not None:
        # Not ready on purpose.
        return None
    if pod.reason == "CrashLoopBackOff" or _crashes(pod):
        return Trouble("CrashLoop", f"{about} ({pod.restarts} restarts)")
    if pod.reason == "Unschedulable":
        return Trouble(_unscheduled(pod.message), about)
    if pod.reason and not pod.ready and pod.phase != "Succeeded":
        return Trouble("PodFailing", f"{about} ({pod.reason})")
    return None


def _crashes(pod: PodSeen) -> bool:
    """Between two waits of the kubelet its container runs, or has just ended."""
    return pod.phase == "Running" and not pod.ready and pod.restarts > 0 and bool(pod.reason)


def of_message(reason: str, about: str, message: str) -> Trouble | None:
    """Of an event, a refusal or a condition of a workload; None: not worth telling."""
    text = f"{about}: {message}"
    if "exceeded quota" in message:
        return Trouble("QuotaExceeded", text)
    if "violates PodSecurity" in message:
        return Trouble("ForbiddenByNamespace", text)
    if reason in NO_CONFIG:
        return Trouble(_missing(message), text)
    if reason == "FailedScheduling":
        return Trouble(_unscheduled(message), text)
    if reason in ("ProvisioningFailed", "FailedBinding"):
        return Trouble("ClaimUnbound", text)
    return Trouble("PodsRefused", text) if reason == "FailedCreate" else None


def _no_image(image: str | None) -> Trouble | None:
    if image is not None:
        return None
    return Trouble("ImageMissing", "set spec.image: the operator has no image of its own")


def _no_store(seen: Seen, has_store: bool) -> Trouble | None:
    if has_store or not seen.service.spec.store.bundled:
        return None
    return Trouble("StoreMissing", "set spec.store.redis: the chart was installed without")


def _unsupported_ranks(seen: Seen) -> Trouble | None:
    """The engine has one rank so far: a model that needs more GPUs would not fit into the one."""
    wide = [pool.name for pool in seen.service.spec.pools if not _has_ranks(pool)]
    if not wide:
        return None
    return Trouble(
        "ParallelismUnsupported",
        f"pool {', '.join(wide)}: the torch engine of this version computes on one rank, and what "
        "parallelism asks for beyond it would stay unused; set tensor, pipeline and nodes to 1",
    )


def _no_leader_worker_set(seen: Seen) -> Trouble | None:
    wide = [
        pool.name
        for pool in seen.service.spec.pools
        if pool.parallelism.nodes > 1 and _has_ranks(pool)
    ]
    if not wide or LEADER_WORKER_SET in seen.kinds:
        return None
    return Trouble(
        "LeaderWorkerSetMissing",
        f"pool {', '.join(wide)} has parallelism.nodes above 1, for which the cluster has no "
        "LeaderWorkerSet: install it (https://lws.sigs.k8s.io), or set nodes to 1",
    )


def _has_ranks(pool: PoolSpec) -> bool:
    """Whether the engine can be spread as the pool asks; the mock engine has none to spread."""
    return pool.engine.kind == "mock" or pool.parallelism.ranks == 1


def privileged_parts(spec: ModelServiceSpec) -> dict[str, str]:
    """What not every namespace allows, and what to take instead."""
    parts = {}
    if spec.transport.profile != "tcp":
        parts[f"transport.profile {spec.transport.profile}"] = "profile tcp"
    if spec.model.cache.type == "HostPath":
        parts["model.cache.type HostPath"] = "another cache"
    return parts


def _forbidden(seen: Seen) -> Trouble | None:
    wants = privileged_parts(seen.service.spec)
    if not wants or seen.pod_security == "privileged":
        return None
    return Trouble(
        "ForbiddenByNamespace",
        f"namespace {seen.service.namespace} enforces pod security {seen.pod_security}, which "
        f"forbids {' and '.join(wants)}: label it pod-security.kubernetes.io/enforce=privileged, "
        f"or take {' and '.join(wants.values())}",
    )


def _no_routes(seen: Seen) -> Iterator[Trouble]:
    gateway = seen.service.spec.gateway
    for kind, wanted in (("HTTPRoute", gateway.http_route), ("GRPCRoute", gateway.grpc_route)):
        if wanted is not None and kind not in seen.kinds:
            yield Trouble(
                "GatewayApiMissing",
                f"the cluster has no {kind}: install the Gateway API, or remove the route",
            )


def _refusals(seen: Seen) -> Iterator[Trouble]:
    for each in seen.refused:
        about = f"{each.kind} {each.name}"
        known = of_message(each.reason, about, each.message)
        reason = {"NotOurs": "NameTaken", "Invalid": "Invalid"}.get(each.reason, "Refused")
        yield known or Trouble(reason, f"{about}: {each.message}")


def _of_events(seen: Seen) -> Iterator[Trouble]:
    for each in sorted(seen.events, key=lambda each: -each.last_s):
        trouble = of_message(each.reason, f"{each.kind} {each.name}", each.message)
        if trouble is not None:
            yield trouble


def _of_pods(seen: Seen) -> Iterator[Trouble]:
    up = {_kin(pod) for pod in seen.pods if pod.ready or pod.phase == "Succeeded"}
    for pod in seen.pods:
        if pod.deleting or (pod.phase == "Failed" and _kin(pod) in up):
            # An evicted pod stays listed long after another took its place.
            continue
        trouble = of_pod(pod)
        if trouble is not None:
            yield trouble


def _kin(pod: PodSeen) -> tuple[str, str, str, str]:
    return pod.component, pod.pool, pod.revision, pod.job


def _of_workloads(seen: Seen) -> Iterator[Trouble]:
    for name, manifest in (*seen.of_kind("Deployment").items(), *seen.of_kind("Job").items()):
        for condition in _failures(manifest):
            trouble = of_message("FailedCreate", name, condition.get("message", ""))
            if trouble is not None:
                yield trouble


def _failures(manifest: Manifest) -> Iterator[Manifest]:
    for condition in (manifest.get("status") or {}).get("conditions") or ():
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            yield condition


def _missing(message: str) -> str:
    lowered = message.lower()
    for kind in ("secret", "configmap"):
        if kind in lowered and ("not found" in lowered or "couldn't find key" in lowered):
            return "SecretMissing" if kind == "secret" else "ConfigMapMissing"
    return "PodConfigError"


def _unscheduled(message: str) -> str:
    return "ClaimUnbound" if "persistentvolumeclaim" in message.lower() else "Unschedulable"
