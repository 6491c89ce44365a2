"""What the operator saw of one service: plain data, everything that `reconcile` decides from.

The shell fills it afresh before every round from its indexes and from what the gateways say.
Nothing of an earlier round is in it: what has to be remembered stands in the cluster, in the
service's status or in an annotation of the object that it is about.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from math import isfinite
from typing import Any

from baton_operator import names
from baton_operator.types.model_service import ModelServiceSpec

Manifest = Mapping[str, Any]

LEADER_WORKER_SET = "LeaderWorkerSet"
_OWN = "baton: "


@dataclass(frozen=True, slots=True)
class ServiceSeen:
    """A ModelService: its metadata, its spec checked and typed, its status as it stands.

    One whose spec the operator cannot read has no `Seen`: `refusal` says so in its status.
    """

    name: str
    namespace: str
    uid: str
    generation: int
    spec: ModelServiceSpec
    status: Manifest = field(default_factory=dict)
    deleting: bool = False
    """Has a deletionTimestamp."""


@dataclass(frozen=True, slots=True)
class PodSeen:
    """A pod of the service. `observed_pod` makes one of a manifest."""

    name: str
    uid: str
    component: names.Component
    pool: str = ""
    """Pool, role and revision: of workers only."""
    role: str = ""
    revision: str = ""
    phase: str = "Pending"
    ready: bool = False
    deleting: bool = False
    """Has a deletionTimestamp, whoever set it."""
    node: str | None = None
    """None: not scheduled."""
    ip: str | None = None
    deletion_cost: int = 0
    drain_since: float | None = None
    """When the operator chose it as a victim (its annotation), unix seconds."""
    reason: str = ""
    """What keeps it from being ready, in the kubelet's or the scheduler's word: Unschedulable,
    ImagePullBackOff, CrashLoopBackOff, CreateContainerConfigError, ...; empty when nothing does."""
    message: str = ""
    restarts: int = 0
    image: str = ""
    group_index: int | None = None
    """Of a LeaderWorkerSet's pods: the number of their group."""
    group_pod: int = 0
    """In it: the leader, who is the worker, is 0."""
    job: str = ""
    """The Job that a fetch pod belongs to."""
    result: str = ""
    """The termination message of its ended container: what a fetch pod resolved."""


@dataclass(frozen=True, slots=True)
class EventSeen:
    """A warning about a child or a pod, not older than what it is about."""

    kind: str
    name: str
    reason: str
    message: str
    last_s: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An `Apply`, `Scale` or `Delete` of the last round that the API server would not have."""

    kind: str
    name: str
    code: int
    reason: str
    """The Status's: Forbidden (quota, admission, RBAC), Invalid, Conflict, ..."""
    message: str


@dataclass(frozen=True, slots=True)
class WorkerSignal:
    """One worker, as a gateway has it."""

    draining: bool = False
    num_running: int = 0
    num_waiting: int = 0

    @property
    def num_requests(self) -> int:
        return self.num_running + self.num_waiting


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a starting worker or a fetch pod is."""

    stage: str
    """downloading, loading, registering or ready."""
    num_bytes: int = 0
    total_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Signals:
    """What the gateways that answered say, together."""

    workers: Mapping[str, WorkerSignal] = field(default_factory=dict)
    """By worker id, which is the name of its pod (of a group: of the leader)."""
    ttft_s: float | None = None
    """Measured quantiles over the last window, with `quantile` of the service's `slo`; None: too
    few requests."""
    tpot_s: float | None = None
    traffic: Mapping[str, float] = field(default_factory=dict)
    """Weights of revisions that were set for new requests; empty: none, by ready capacity."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One service and all that is known of it at `now_s` (unix seconds)."""

    service: ServiceSeen
    now_s: float
    objects: Mapping[tuple[str, str], Manifest] = field(default_factory=dict)
    """Children by (kind, name), WorkerPools among them; never Secrets, which are not read. What
    has the wanted name but is not the service's (another owner) belongs here too."""
    pods: tuple[PodSeen, ...] = ()
    """Of the service, by its labels."""
    events: tuple[EventSeen, ...] = ()
    refused: tuple[Refused, ...] = ()
    """When they were last tried, and wanted still; each is tried again after a wait of its own.
    Nothing after a restart or a change of the spec."""
    signals: Signals | None = None
    """None: no gateway answered."""
    progress: Mapping[str, Progress] = field(default_factory=dict)
    """By pod name, of those that were asked and answered."""
    kinds: frozenset[str] = frozenset()
    """Optional kinds that the cluster serves: LeaderWorkerSet, PodMonitor, HTTPRoute, ..."""
    unwatched: frozenset[str] = frozenset()
    """Kinds that the operator may not watch: of these `objects` and `pods` say nothing."""
    pod_security: str = "privileged"
    """Level that the namespace enforces: privileged, baseline or restricted; not asked for, and
    privileged, where the spec has nothing that any level forbids."""
    rewrite_secrets: bool = False
    """Due to write again what is never read, in case somebody changed or deleted it."""

    def of_kind(self, kind: str) -> dict[str, Manifest]:
        """The service's own children of a kind, by name; what is being deleted is left out."""
        return {
            name: manifest
            for (its_kind, name), manifest in self.objects.items()
            if its_kind == kind
            and owned_by(manifest, self.service.uid)
            and not manifest["metadata"].get("deletionTimestamp")
        }

    @property
    def workers(self) -> tuple[PodSeen, ...]:
        """Pods that are a worker; one of several pods is its leader."""
        return tuple(pod for pod in self.pods if pod.component == "worker" and pod.group_pod == 0)


def owned_by(manifest: Manifest, uid: str) -> bool:
    """Whether the service of this uid is among its owners."""
    owners = manifest["metadata"].get("ownerReferences") or ()
    return any(owner.get("uid") == uid for owner in owners)


def observed_pod(manifest: Manifest) -> PodSeen:
    """A pod's manifest as `Seen` wants it."""
    meta, spec, status = manifest["metadata"], manifest["spec"], manifest.get("status") or {}
    labels, notes = meta.get("labels") or {}, meta.get("annotations") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    containers = status.get("containerStatuses") or ()
    reason, message = _hindrance(status, conditions)
    return PodSeen(
        name=meta["name"],
        uid=meta.get("uid", ""),
        component=labels.get(names.LABEL_COMPONENT, ""),
        pool=labels.get(names.LABEL_POOL, ""),
        role=labels.get(names.LABEL_ROLE, ""),
        revision=labels.get(names.LABEL_REVISION, ""),
        phase=status.get("phase", "Pending"),
        ready=conditions.get("Ready", {}).get("status") == "True",
        deleting="deletionTimestamp" in meta,
        node=spec.get("nodeName"),
        ip=status.get("podIP"),
        deletion_cost=_whole(notes.get(names.ANNOTATION_DELETION_COST)) or 0,
        drain_since=_number(notes.get(names.ANNOTATION_DRAIN_SINCE)),
        reason=reason,
        message=message,
        restarts=sum(each.get("restartCount", 0) for each in containers),
        image=next((each.get("image", "") for each in spec.get("containers") or ()), ""),
        group_index=_index(labels.get(names.LABEL_GROUP)),
        group_pod=_index(labels.get(names.LABEL_GROUP_POD)) or 0,
        job=labels.get("batch.kubernetes.io/job-name", ""),
        result=next(
            (
                ended["message"]
                for each in containers
                if (ended := (each.get("state") or {}).get("terminated")) and ended.get("message")
            ),
            "",
        ),
    )


def _hindrance(status: Manifest, conditions: Mapping[str, Mapping[str, str]]) -> tuple[str, str]:
    """Reason and message of what keeps a pod from being ready."""
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return scheduled.get("reason", ""), scheduled.get("message", "")
    for key in ("initContainerStatuses", "containerStatuses"):
        for each in status.get(key) or ():
            state = each.get("state") or {}
            waiting = state.get("waiting") or {}
            # These two are the ordinary way up.
            if waiting.get("reason", "ContainerCreating") not in (
                "ContainerCreating",
                "PodInitializing",
            ):
                last = (each.get("lastState") or {}).get("terminated") or {}
                said = _last_words(last.get("message") or "")
                return waiting["reason"], said or waiting.get("message", "")
            ended = state.get("terminated") or {}
            if not ended and key == "containerStatuses" and not each.get("ready"):
                # It runs again; why it had to be started anew is news until it is ready.
                ended = (each.get("lastState") or {}).get("terminated") or {}
            if ended.get("exitCode"):
                return ended.get("reason") or "Error", _last_words(ended.get("message") or "")
    # Evicted, UnexpectedAdmissionError, NodeLost, ...: the whole pod's.
    return status.get("reason", ""), status.get("message", "")


def _last_words(log: str) -> str:
    """Why a container ended, from the end of its log: Baton's own words are there as `baton: ...`,
    below warnings of libraries that are not the reason."""
    lines = log.rstrip().splitlines()
    own = [*takewhile(lambda line: line.startswith(_OWN), reversed(lines))]
    return "\n".join(line.removeprefix(_OWN) for line in reversed(own)) or log


def _number(text: str | None) -> float | None:
    """Of an annotation, which anybody may have written: a finite number or nothing."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if isfinite(number) else None


# As wide as the 32 bits that Kubernetes takes where it reads these itself.
_WHOLE = re.compile(r"-?[0-9]{1,10}")


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and _WHOLE.fullmatch(text) else None


def _index(text: str | None) -> int | None:
    """Of a label that counts from 0."""
    number = _whole(text)
    return None if number is None or number < 0 else number
