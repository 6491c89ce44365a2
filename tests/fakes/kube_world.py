"""A cluster around the pure operator: its controllers, nodes and gateways, each moved by hand.

Nothing happens by itself: `controllers` is a pass of the Deployment and Job controllers, `start`
and `finish` are the kubelet's, `work` is what workers do with their requests. So a test decides
what the operator sees between any two of its actions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from baton_operator import names
from baton_operator.actions import (
    Action,
    Apply,
    Delete,
    Drain,
    Emit,
    MarkVictim,
    PatchStatus,
    Scale,
    SetPoolReplicas,
    SetTraffic,
    Undrain,
)
from baton_operator.decide.reconcile import reconcile
from baton_operator.decide.rollout.workloads import fleet_of
from baton_operator.resources.context import Installation
from baton_operator.seen import (
    LEADER_WORKER_SET,
    Seen,
    ServiceSeen,
    Signals,
    WorkerSignal,
    observed_pod,
)
from baton_operator.types.model_service import ModelServiceSpec
from fakes.kube_groups import is_other, lacks_others, reconcile_groups
from fakes.kube_store import KubeStore, Manifest, RefusedError

NAME, NAMESPACE, UID = "demo", "team", "0b52"
COMMIT = "9f2c1e"
JOB_LABEL = "batch.kubernetes.io/job-name"


class KubeWorld:
    """One ModelService and all that becomes of it."""

    def __init__(self, spec: Mapping[str, Any], image: str = "baton:1") -> None:
        self.store = KubeStore()
        self.now_s = 1_700_000_000.0
        self.installation = Installation(b"k" * 32, image, "redis:6379")
        self.spec = deepcopy(dict(spec))
        self.generation = 1
        self.status: dict[str, Any] = {}
        self.deleting = False
        self.kinds: frozenset[str] = frozenset()
        self.pod_security = "restricted"
        self.gateways_answer = True
        self.drains: set[str] = set()
        self.load: dict[str, int] = {}
        self.traffic: dict[str, float] = {}
        self.events: list[Emit] = []
        self.broken_images: set[str] = set()
        self.quota: int | None = None
        self.num_pods = 0
        self.has_secret = False
        self.killed_serving: list[str] = []
        """Pods that a controller took while they were serving, not chosen by the operator."""

    # What the operator does.

    def seen(self) -> Seen:
        return Seen(
            service=ServiceSeen(
                NAME,
                NAMESPACE,
                UID,
                self.generation,
                ModelServiceSpec.model_validate(self.spec),
                deepcopy(self.status),
                self.deleting,
            ),
            now_s=self.now_s,
            objects=deepcopy({k: v for k, v in self.store.objects.items() if k[0] != "Pod"}),
            pods=tuple(observed_pod(each) for each in self.store.of_kind("Pod")),
            signals=self.signals() if self.gateways_answer else None,
            kinds=self.kinds,
            pod_security=self.pod_security,
        )

    def signals(self) -> Signals:
        return Signals(
            workers={
                name: WorkerSignal(name in self.drains, self.load.get(name, 0))
                for name in self.registered()
            },
            traffic=self.traffic,
        )

    def actions(self) -> list[Action]:
        return reconcile(self.seen(), self.installation)

    def round(self, at_most: int | None = None) -> list[Action]:
        """One round of the operator; with `at_most` it is killed after so many actions."""
        actions = self.actions()
        for action in actions[:at_most]:
            self.perform(action)
        return actions

    def perform(self, action: Action) -> None:
        """Raises RefusedError for what the API server would refuse."""
        match action:
            case Apply(manifest=manifest):
                if manifest["kind"] == "Secret":
                    self.has_secret = True
                else:
                    self.store.apply(manifest)
            case Delete(kind=kind, name=name, uid=uid):
                found = self.store.objects.get((kind, name))
                if found is not None and found["metadata"]["uid"] == uid:
                    self.store.delete((kind, name))
            case Scale(kind=kind, name=name, replicas=replicas, expected=expected):
                found = self.store.objects.get((kind, name))
                if found is None or found["spec"]["replicas"] != expected:
                    raise RefusedError("the test of the patch failed")
                self.store.merge((kind, name), {"spec": {"replicas": replicas}})
            case SetPoolReplicas(name=name, replicas=replicas):
                note = {names.ANNOTATION_POOL_REPLICAS: str(replicas)}
                patch = {"metadata": {"annotations": note}, "spec": {"replicas": replicas}}
                self.store.merge((names.POOL_KIND, name), patch)
            case MarkVictim(pod=pod, deletion_cost=cost, since_s=since):
                notes = {
                    names.ANNOTATION_DELETION_COST: None if cost is None else str(cost),
                    names.ANNOTATION_DRAIN_SINCE: None if since is None else repr(since),
                }
                self.store.merge(("Pod", pod), {"metadata": {"annotations": notes}})
            case Drain(worker=worker):
                if self.gateways_answer and worker in self.registered():
                    self.drains.add(worker)
                    self._readiness(worker)
            case Undrain(worker=worker):
                if self.gateways_answer:
                    self.drains.discard(worker)
                    self._readiness(worker)
            case SetTraffic(weights=weights):
                if self.gateways_answer:
                    self.traffic = dict(weights)
            case PatchStatus(kind=kind, name=name, status=status):
                if kind == names.SERVICE_KIND:
                    self.status = deepcopy(dict(status))
                else:
                    self.store.put_status((kind, name), status)
            case Emit():
                self.events.append(action)
        told = getattr(action, "event", None)
        if told is not None:
            self.events.append(told)

    # What users do.

    def edit(self, change: Mapping[str, Any]) -> None:
        """A new spec, of which `change` are the parts on top."""
        spec = {**self.spec, **deepcopy(dict(change))}
        if spec != self.spec:
            self.spec, self.generation = spec, self.generation + 1

    def scale(self, pool: str, replicas: int) -> None:
        """`kubectl scale`."""
        key = (names.POOL_KIND, names.worker_pool(NAME, pool))
        if key in self.store.objects:
            self.store.merge(key, {"spec": {"replicas": replicas}})

    # What controllers do.

    def controllers(self) -> None:
        """A pass of the Deployment, ReplicaSet, LeaderWorkerSet and Job controllers and of the
        garbage collector."""
        deployments, jobs = self.store.of_kind("Deployment"), self.store.of_kind("Job")
        sets = self.store.of_kind(LEADER_WORKER_SET)
        owners = {each["metadata"]["uid"] for each in (*deployments, *sets, *jobs)}
        for pod in self.pods():
            if pod["owner"] not in owners:
                self.kill(pod)
        for deployment in deployments:
            self._scale_pods(deployment)
            self._roll(deployment)
            self._count(deployment)
        for each in sets:
            serving = {pod["metadata"]["name"] for pod in self.pods() if self._is_unchosen(pod)}
            self.killed_serving += serving & {*reconcile_groups(self, each)}
        for job in jobs:
            if not self._pods_of(job):
                pod = self._make_pod(job)
                pod["metadata"]["labels"][JOB_LABEL] = job["metadata"]["name"]

    def _scale_pods(self, deployment: Manifest) -> None:
        wanted, mine = deployment["spec"]["replicas"], self._pods_of(deployment)
        for _ in range(wanted - len(mine)):
            if self.quota is None or len(self.pods()) < self.quota:
                self._make_pod(deployment)
        # While pods are replaced there may be one more.
        surge = any(not _is_updated(pod, deployment) for pod in mine)
        for pod in sorted(mine, key=_replica_set_rank)[: max(0, len(mine) - wanted - surge)]:
            if self._is_unchosen(pod):
                self.killed_serving.append(pod["metadata"]["name"])
            self.kill(pod)

    def _roll(self, deployment: Manifest) -> None:
        """Pods of another template go one by one, each when there is a ready one more."""
        wanted, mine = deployment["spec"]["replicas"], self._pods_of(deployment)
        old = [pod for pod in mine if not _is_updated(pod, deployment)]
        if old and len(mine) <= wanted and (self.quota is None or len(self.pods()) < self.quota):
            self._make_pod(deployment)
        spare = sum(map(is_ready, mine)) - wanted
        for pod in sorted(old, key=is_ready):
            if not is_ready(pod) or spare > 0:
                spare -= is_ready(pod)
                self.kill(pod)

    def _count(self, deployment: Manifest) -> None:
        mine = self._pods_of(deployment)
        deployment["status"] = {
            **deployment.get("status", {}),
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": len(mine),
            "updatedReplicas": sum(_is_updated(pod, deployment) for pod in mine),
            "availableReplicas": sum(map(is_ready, mine)),
        }

    def _is_unchosen(self, pod: Manifest) -> bool:
        """Whether it serves, and nobody said that it is to go."""
        chosen = names.ANNOTATION_DRAIN_SINCE in pod["metadata"].get("annotations", {})
        return is_ready(pod) and not chosen

    def _make_pod(self, owner: Manifest) -> Manifest:
        self.num_pods += 1
        name = f"{owner['metadata']['name']}-{self.num_pods}"
        return self.make_pod(owner, deepcopy(owner["spec"]["template"]), name)

    def make_pod(self, owner: Manifest, template: Manifest, name: str) -> Manifest:
        """A pod that waits for a node."""
        return self.store.create(
            {
                "kind": "Pod",
                "metadata": {"name": name, **template["metadata"]},
                "spec": template["spec"],
                "owner": owner["metadata"]["uid"],
                "template": deepcopy(template),
                "status": {"phase": "Pending"},
            }
        )

    def _pods_of(self, owner: Manifest) -> list[Manifest]:
        return [
            pod
            for pod in self.pods()
            if pod["owner"] == owner["metadata"]["uid"]
            and "deletionTimestamp" not in pod["metadata"]
        ]

    # What nodes and workers do.

    def pods(self, component: str | None = None) -> list[Manifest]:
        return [
            pod
            for pod in self.store.of_kind("Pod")
            if component in (None, pod["metadata"]["labels"][names.LABEL_COMPONENT])
        ]

    def start(self, pod: Manifest) -> None:
        """The kubelet's next step with a pod: scheduled and running, then ready or crashed."""
        status = pod["status"]
        if "deletionTimestamp" in pod["metadata"]:
            return
        if status["phase"] == "Pending":
            pod["spec"]["nodeName"] = "node"
            status |= {"phase": "Running", "podIP": "10.0.0.1"}
        elif pod["metadata"]["labels"][names.LABEL_COMPONENT] == "fetch":
            status["phase"] = "Succeeded"
            result = json.dumps({"commit": COMMIT})
            status["containerStatuses"] = [{"state": {"terminated": {"message": result}}}]
            condition = {"type": "Complete", "status": "True"}
            job = self.store.objects["Job", pod["metadata"]["labels"][JOB_LABEL]]
            job["status"] = {"conditions": [condition]}
        elif pod["spec"]["containers"][0]["image"] in self.broken_images:
            waiting = {"reason": "CrashLoopBackOff", "message": "back-off"}
            status["containerStatuses"] = [{"restartCount": 1, "state": {"waiting": waiting}}]
            status["conditions"] = []
        elif not lacks_others(self, pod):
            status["containerStatuses"] = []
            self._set_ready(pod, pod["metadata"]["name"] not in self.drains)

    def crash(self, pod: Manifest) -> None:
        """Its container restarts: it has to become ready again, and forgets that it drains."""
        if pod["status"]["phase"] == "Running":
            self._set_ready(pod, False)
            pod["status"] |= {"conditions": [], "containerStatuses": [{"restartCount": 1}]}
            self._forget(pod)

    def finish(self, pod: Manifest) -> None:
        """A pod that was being deleted is gone."""
        if "deletionTimestamp" in pod["metadata"]:
            self._forget(pod)
            self.store.delete(("Pod", pod["metadata"]["name"]))

    def kill(self, pod: Manifest) -> None:
        """`kubectl delete pod`, an eviction, a spot notice."""
        pod["metadata"].setdefault("deletionTimestamp", "now")

    def work(self) -> None:
        """Every worker finishes its requests."""
        self.load.clear()

    def registered(self) -> set[str]:
        """Workers that gateways know: ready ones and those that drain."""
        return {
            pod["metadata"]["name"]
            for pod in self.pods("worker")
            if not is_other(pod) and (is_ready(pod) or pod["metadata"]["name"] in self.drains)
        }

    def settle(self, rounds: int = 400) -> None:
        """Everything heals and goes on until nothing changes any more."""
        self.broken_images.clear()
        self.quota, self.gateways_answer = None, True
        for _ in range(rounds):
            self.now_s += 1.0
            before = deepcopy((self.store.objects, self.status, self.drains, self.traffic))
            self.work()
            self.round()
            self.controllers()
            for pod in self.pods():
                self.start(pod)
                self.finish(pod)
            if before == (self.store.objects, self.status, self.drains, self.traffic):
                return
        raise AssertionError(f"no rest after {rounds} rounds: {self.actions()}")

    def available(self) -> dict[str, int]:
        """Serving workers by pool."""
        counts: dict[str, int] = {}
        for (pool, _), workload in fleet_of(self.seen()).items():
            counts[pool] = counts.get(pool, 0) + workload.available
        return counts

    def _readiness(self, worker: str) -> None:
        pod = self.store.objects.get(("Pod", worker))
        if pod is not None and pod["status"].get("conditions"):
            self._set_ready(pod, worker not in self.drains)

    def _set_ready(self, pod: Manifest, ready: bool) -> None:
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        pod["status"]["conditions"] = [condition]

    def _forget(self, pod: Manifest) -> None:
        name = pod["metadata"]["name"]
        self.drains.discard(name)
        self.load.pop(name, None)


def is_ready(pod: Mapping[str, Any]) -> bool:
    conditions: Iterable[Mapping[str, Any]] = pod["status"].get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _is_updated(pod: Manifest, deployment: Manifest) -> bool:
    return bool(pod["template"] == deployment["spec"]["template"])


def _replica_set_rank(pod: Manifest) -> tuple[bool, bool, bool, int]:
    """As a ReplicaSet sorts what it removes."""
    notes = pod["metadata"].get("annotations") or {}
    return (
        pod["spec"].get("nodeName") is not None,
        pod["status"]["phase"] == "Running",
        is_ready(pod),
        int(notes.get(names.ANNOTATION_DELETION_COST, 0)),
    )
