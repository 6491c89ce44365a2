"""From actions to calls of the API server and of gateways; what each answer means.

Told to the next round, as `Refused`, and tried again by itself: what is forbidden (RBAC, quota,
admission), invalid, or somebody else's, and an object that the server fails at (a webhook that
does not answer). Tried again with the whole round, after the queue's backoff: no answer, too many
requests, any other failure, and what changed in between. Nothing here raises for one bad action:
the others of the round are done all the same, unless the API server is gone altogether, or the
namespace is about to be.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

from baton.telemetry.logging import event
from baton_operator import kinds, names
from baton_operator.actions import (
    Action,
    Apply,
    Delete,
    Drain,
    Emit,
    MarkVictim,
    PatchStatus,
    Requeue,
    Scale,
    SetPoolReplicas,
    SetTraffic,
    Undrain,
)
from baton_operator.kube.client import ApiError, KubeClient, Manifest
from baton_operator.kube.lease import LeaseLostError
from baton_operator.kube.object_cache import Cache, Key
from baton_operator.kube.recorder import Recorder
from baton_operator.metrics import OperatorMetrics
from baton_operator.rounds.refusals import target
from baton_operator.rounds.signals import SignalError, SignalSource
from baton_operator.rounds.surplus import surplus
from baton_operator.seen import LEADER_WORKER_SET, PodSeen, Refused, Seen, owned_by

log = logging.getLogger(__name__)

# Of one round: calls at the same time.
MAX_AT_ONCE = 8
# A version that no object has: to apply one with it makes it, or conflicts with what is there.
OF_NO_OBJECT = "1"
MAKES_PODS = frozenset({"Deployment", LEADER_WORKER_SET, "Job"})


@dataclass(slots=True)
class Outcome:
    """How a round's actions went."""

    refusals: list[tuple[Action, Refused]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Why the round has to be done again after a wait."""
    wait_s: float = 0.0
    """At least so long, as the API server asked."""
    again_s: float | None = None
    """The soonest `Requeue`."""
    in_vain: bool = False
    """Nothing further of the round can be done now."""

    @property
    def refused(self) -> list[Refused]:
        return [told for _, told in self.refusals]

    @property
    def result(self) -> str:
        return "failed" if self.problems else "refused" if self.refused else "ok"


class Performer:
    """Performs rounds of any service; holds nothing of them."""

    def __init__(
        self,
        client: KubeClient,
        cache: Cache,
        signals: SignalSource,
        recorder: Recorder,
        metrics: OperatorMetrics,
        may_act: Callable[[], bool],
    ) -> None:
        self._client = client
        self._cache = cache
        self._signals = signals
        self._recorder = recorder
        self._metrics = metrics
        self._may_act = may_act

    async def perform(
        self, about: Manifest, seen: Seen | None, actions: Sequence[Action]
    ) -> Outcome:
        """At the same time, as none relies on another, but in steps (`_steps`).

        `about` is the ModelService's manifest; `seen` may be None for actions that only tell of it.

        Raises LeaseLostError before an action that is not this process's to do any more.
        """
        outcome = Outcome()
        for step in _steps(actions):
            left = iter(step)
            await asyncio.gather(
                *(self._in_turn(about, seen, left, outcome) for _ in step[:MAX_AT_ONCE])
            )
        return outcome

    async def _in_turn(
        self, about: Manifest, seen: Seen | None, left: Iterator[Action], outcome: Outcome
    ) -> None:
        """One of several that take from `left`."""
        for action in left:
            if outcome.in_vain:
                return
            if not self._may_act():
                raise LeaseLostError("the Lease ran out within a round")
            await self._try(about, seen, action, outcome)

    async def _try(
        self, about: Manifest, seen: Seen | None, action: Action, outcome: Outcome
    ) -> None:
        try:
            await self._one(about, seen, action, outcome)
            if isinstance(action, Apply | Delete | Scale | MarkVictim) and action.event:
                self._recorder.emit(about, action.event)
        except SignalError as error:
            outcome.problems.append(str(error))
        except ApiError as error:
            if error.namespace_ends:
                outcome.problems.append("the namespace is being deleted")
            elif _changed_meanwhile(action, error) or (
                error.passing and not _fails_at_object(action, error)
            ):
                outcome.problems.append(str(error))
                outcome.wait_s = max(outcome.wait_s, error.retry_after_s or 0.0)
            else:
                outcome.refusals.append((action, _refused(action, error)))
            outcome.in_vain |= error.namespace_ends or error.code == 0

    async def _one(
        self, about: Manifest, seen: Seen | None, action: Action, outcome: Outcome
    ) -> None:
        namespace = about["metadata"]["namespace"]
        match action:
            case Apply() | Drain() | Undrain() | SetTraffic():
                assert seen is not None
                await self._one_of_seen(about, seen, action)
            case Delete():
                await self._client.delete(
                    kinds.by_name(action.kind), namespace, action.name, action.uid
                )
            case Scale():
                await self._scale(namespace, action)
            case SetPoolReplicas():
                await self._set_pool_replicas(namespace, action)
            case MarkVictim():
                await self._mark_victim(namespace, action)
            case PatchStatus():
                key = Key(namespace, action.name)
                await self._write_status(kinds.by_name(action.kind), key, action.status)
            case Emit():
                self._recorder.emit(about, action)
            case Requeue():
                sooner = action.after_s if outcome.again_s is None else outcome.again_s
                outcome.again_s = min(sooner, action.after_s)
            case _:
                assert_never(action)

    async def _one_of_seen(
        self, about: Manifest, seen: Seen, action: Apply | Drain | Undrain | SetTraffic
    ) -> None:
        """What takes more to perform than the action itself says."""
        asked = gateways(seen)
        match action:
            case Apply():
                await self._apply(about, seen, action.manifest)
            case Drain():
                await self._signals.drain(
                    seen.service, asked, action.worker, action.within_s, action.reason
                )
            case Undrain():
                await self._signals.undrain(seen.service, asked, action.worker)
            case SetTraffic():
                await self._signals.set_traffic(seen.service, asked, action.weights)
            case _:
                assert_never(action)

    async def _apply(self, about: Manifest, seen: Seen, desired: Mapping[str, Any]) -> None:
        manifest = dict(desired)
        kind = kinds.by_name(manifest["kind"])
        name = manifest["metadata"]["name"]
        if kind == kinds.SECRET:
            # Not read, so its owner is not known: fields that another wrote stay as they are.
            await self._client.apply(kind, manifest, force=False)
            return
        found = seen.objects.get((kind.kind, name))
        if found is None:
            made = await self._made(kind, manifest)
            if made is not None:
                self._note(kind.kind, made)
                return
            found = await self._unlabelled(seen, kind, name)
        if found is not None and not owned_by(found, seen.service.uid):
            raise _not_ours(found)
        try:
            applied = await self._client.apply(kind, manifest, force=False)
        except ApiError as error:
            if not error.conflict or error.reason != "Conflict":
                raise
            applied = await self._client.apply(kind, manifest, force=True)
            said = Emit("Normal", "FieldsTakenBack", f"{kind.kind} {name}: {error.message}")
            self._recorder.emit(about, said)
        self._note(kind.kind, applied)

    async def _made(self, kind: kinds.Kind, manifest: Manifest) -> Manifest | None:
        """The new object; None: there is one of that name already."""
        fresh = {**manifest["metadata"], "resourceVersion": OF_NO_OBJECT}
        try:
            return await self._client.apply(kind, {**manifest, "metadata": fresh}, force=False)
        except ApiError as error:
            if not error.conflict:
                raise
            return None

    async def _unlabelled(self, seen: Seen, kind: kinds.Kind, name: str) -> Manifest | None:
        """What has the name and not the service's label, which no watch would show."""
        found = await self._client.list_all(
            kind, seen.service.namespace, fields=f"metadata.name={name}"
        )
        return found[0] if found else None

    async def _scale(self, namespace: str, action: Scale) -> None:
        kind = kinds.by_name(action.kind)
        scaled = await self._client.json_patch(
            kind,
            namespace,
            action.name,
            [
                {"op": "test", "path": "/metadata/uid", "value": action.uid},
                {"op": "test", "path": "/spec/replicas", "value": action.expected},
                {"op": "replace", "path": "/spec/replicas", "value": action.replicas},
            ],
        )
        self._note(kind.kind, scaled)
        log.info(*event("scaled", kind=action.kind, name=action.name, replicas=action.replicas))

    async def _set_pool_replicas(self, namespace: str, action: SetPoolReplicas) -> None:
        written = {names.ANNOTATION_POOL_REPLICAS: str(action.replicas)}
        patch: Manifest = {
            "metadata": {"annotations": written},
            "spec": {"replicas": action.replicas},
        }
        pool = await self._client.merge(kinds.POOL, namespace, action.name, patch)
        self._note(kinds.POOL.kind, pool)

    async def _mark_victim(self, namespace: str, action: MarkVictim) -> None:
        cost, since = action.deletion_cost, action.since_s
        annotations = {
            names.ANNOTATION_DELETION_COST: None if cost is None else str(cost),
            names.ANNOTATION_DRAIN_SINCE: None if since is None else repr(since),
        }
        patch: Manifest = {"metadata": {"uid": action.uid, "annotations": annotations}}
        pod = await self._client.merge(kinds.POD, namespace, action.pod, patch)
        self._note(kinds.POD.kind, pod)

    async def _write_status(self, kind: kinds.Kind, key: Key, status: Mapping[str, Any]) -> None:
        """The whole of it, of a ModelService or a WorkerPool, and nothing beside it."""
        manifest: Manifest = {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {"name": key.name, "namespace": key.namespace},
            "status": status,
        }
        written = await self._client.apply(kind, manifest, force=True, subresource="status")
        # Of another field manager, as after an edit by hand: it would differ in every round.
        others = surplus(written.get("status") or {}, status)
        if others:
            version = {"resourceVersion": written["metadata"]["resourceVersion"]}
            patch: Manifest = {"metadata": version, "status": others}
            written = await self._client.merge(
                kind, key.namespace, key.name, patch, subresource="status"
            )
        self._note(kind.kind, written)
        if kind == kinds.SERVICE:
            self._metrics.set_conditions(key, status.get("conditions") or ())

    def _note(self, kind: str, manifest: Manifest) -> None:
        """The answer to a write is newer than what the watch has told."""
        self._cache.put(kind, manifest)


def _steps(actions: Sequence[Action]) -> tuple[list[Action], list[Action], list[Action]]:
    """What pods refer to, all else, and what is only told.

    Each step ends before the next begins: a pod that comes before its ServiceAccount is refused,
    and tried again after a while. What is told comes in its order, after what the actions
    themselves tell.
    """
    first: list[Action] = []
    then: list[Action] = []
    told: list[Action] = []
    for action in actions:
        match action:
            case Apply() if action.manifest["kind"] not in MAKES_PODS:
                first.append(action)
            case Emit() | Requeue():
                told.append(action)
            case _:
                then.append(action)
    return first, then, told


def gateways(seen: Seen) -> list[PodSeen]:
    """Pods that can be asked."""
    return [
        pod
        for pod in seen.pods
        if pod.component == "gateway" and pod.ip and pod.ready and not pod.deleting
    ]


def _changed_meanwhile(action: Action, error: ApiError) -> bool:
    """Decided from what is not so any more: the next round sees more."""
    match action:
        case Scale():
            # 422 is a test of the patch that failed.
            return error.code in (404, 409, 422)
        case Delete() | MarkVictim() | SetPoolReplicas():
            return error.code in (404, 409)
        case PatchStatus():
            return error.code in (404, 409)
        case _:
            # An update of the same object by another between the API server's read and write.
            return error.code == 409 and "object has been modified" in error.message


def _not_ours(found: Mapping[str, Any]) -> ApiError:
    meta = found["metadata"]
    made_by = (meta.get("labels") or {}).get(names.LABEL_MANAGED_BY)
    # Left behind by a service of the operator: nobody has it.
    orphan = made_by == names.FIELD_MANAGER and not meta.get("ownerReferences")
    text = "exists and is not this service's: rename one" + (", or delete it" if orphan else "")
    return ApiError(409, "NotOurs", text)


def _fails_at_object(action: Action, error: ApiError) -> bool:
    """Whether it is this object that the server fails at, and not the server that is busy."""
    return isinstance(action, Apply) and error.code >= 500 and error.retry_after_s is None


def _refused(action: Action, error: ApiError) -> Refused:
    _, kind, name = target(action)
    log.warning(*event("refused", kind=kind, name=name, error=str(error)))
    return Refused(kind, name, error.code, error.reason, error.message)
