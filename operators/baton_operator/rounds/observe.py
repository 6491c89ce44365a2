"""From what the watches told, and what pods answer, to `Seen`: the input of one round."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from pydantic import ValidationError

from baton.telemetry.logging import event
from baton_operator import kinds
from baton_operator.decide.text import unix_s
from baton_operator.kube.client import ApiError, KubeClient, Manifest
from baton_operator.kube.object_cache import Cache, Key
from baton_operator.rounds.perform import gateways
from baton_operator.rounds.signals import SignalSource
from baton_operator.seen import EventSeen, PodSeen, Progress, Refused, Seen, ServiceSeen
from baton_operator.types.model_service import ModelServiceSpec

log = logging.getLogger(__name__)

# Of one round: pods that are asked for their progress, objects whose events are looked for.
MAX_PROGRESS = 16
MAX_SUSPECTS = 4
EVENTS_FOR_S = 15.0
LEVEL_FOR_S = 60.0
LEVEL_LABEL = "pod-security.kubernetes.io/enforce"


class SpecError(Exception):
    """The spec is not one that this operator understands: a schema of another version."""


class Observer:
    """Fills `Seen`; what it asks the API server for itself it remembers for a while."""

    def __init__(
        self,
        cache: Cache,
        client: KubeClient,
        signals: SignalSource,
        present: Callable[[], frozenset[str]],
        unwatched: Callable[[], frozenset[str]],
        now: Callable[[], float],
    ) -> None:
        """`present` are the optional kinds that are there, `unwatched` those of any sort that the
        operator may not watch."""
        self._cache = cache
        self._client = client
        self._signals = signals
        self._present = present
        self._unwatched = unwatched
        self._now = now
        self._levels: dict[str, tuple[float, str]] = {}
        self._events: dict[str, tuple[float, tuple[EventSeen, ...]]] = {}

    async def observe(
        self, key: Key, refused: Iterable[Refused], rewrite_secrets: bool
    ) -> Seen | None:
        """None: there is no such service. Raises SpecError."""
        manifest = self._cache.service(key)
        if manifest is None:
            return None
        unwatched = self._unwatched()
        seen = Seen(
            service=service_seen(manifest),
            now_s=self._now(),
            # What was known of them when they still were watched may not be so any more.
            objects={
                at: child
                for at, child in self._cache.children(key).items()
                if at[0] not in unwatched
            },
            pods=self._cache.pods(key),
            refused=tuple(refused),
            kinds=self._present(),
            unwatched=unwatched,
            rewrite_secrets=rewrite_secrets,
        )
        signals, progress, events, level = await asyncio.gather(
            self._signals.signals(seen.service, gateways(seen)),
            self._progress(seen),
            self._warnings(seen),
            self._level(key.namespace),
        )
        return replace(
            seen,
            now_s=self._now(),
            signals=signals,
            progress=progress,
            events=events,
            pod_security=level,
        )

    async def _progress(self, seen: Seen) -> dict[str, Progress]:
        starting = [pod for pod in seen.pods if pod.ip and not pod.deleting and _is_starting(pod)]
        asked = starting[:MAX_PROGRESS]
        answers = await asyncio.gather(*(self._signals.progress(pod) for pod in asked))
        return {
            pod.name: answer
            for pod, answer in zip(asked, answers, strict=True)
            if answer is not None
        }

    async def _warnings(self, seen: Seen) -> tuple[EventSeen, ...]:
        """Of what does not come up without its status saying why."""
        suspects = [*_silent_pods(seen.pods), *_silent_objects(seen)][:MAX_SUSPECTS]
        found = await asyncio.gather(
            *(self._events_of(seen, kind, name, uid) for kind, name, uid in suspects)
        )
        return tuple(each for events in found for each in events)

    async def _events_of(self, seen: Seen, kind: str, name: str, uid: str) -> tuple[EventSeen, ...]:
        at, known = self._events.get(uid, (float("-inf"), ()))
        now = self._now()
        if now - at < EVENTS_FOR_S:
            return known
        self._events = {
            each: entry for each, entry in self._events.items() if now - entry[0] < EVENTS_FOR_S
        }
        try:
            listed = await self._client.list_all(
                kinds.EVENT,
                seen.service.namespace,
                fields=f"involvedObject.uid={uid},type=Warning",
            )
        except ApiError as error:
            log.debug(*event("events_not_read", kind=kind, name=name, error=str(error)))
            return ()
        events = tuple(
            EventSeen(
                kind, name, each.get("reason") or "", each.get("message") or "", _event_time(each)
            )
            for each in listed
        )
        self._events[uid] = (now, events)
        return events

    async def _level(self, namespace: str) -> str:
        """What the namespace enforces; where that may not be read, pods will tell."""
        at, known = self._levels.get(namespace, (float("-inf"), ""))
        now = self._now()
        if now - at < LEVEL_FOR_S:
            return known
        level = "privileged"
        try:
            found = await self._client.get(kinds.NAMESPACE, None, namespace)
        except ApiError as error:
            log.debug(*event("namespace_not_read", namespace=namespace, error=str(error)))
        else:
            level = (found["metadata"].get("labels") or {}).get(LEVEL_LABEL, level)
        self._levels[namespace] = (now, level)
        return level


def service_seen(manifest: Manifest) -> ServiceSeen:
    """A ModelService as the API server has it. Raises SpecError."""
    meta = manifest["metadata"]
    try:
        # Fields that only newer CRDs know: those outlive a rollback, and come before their operator
        # in an upgrade. What users misspell is the API server's to refuse.
        spec = ModelServiceSpec.model_validate(manifest["spec"], extra="ignore")
    except ValidationError as error:
        problems = (
            f"spec.{'.'.join(map(str, each['loc']))}: {each['msg']}"
            for each in error.errors(include_url=False, include_input=False)
        )
        raise SpecError("; ".join(problems)) from None
    return ServiceSeen(
        name=meta["name"],
        namespace=meta["namespace"],
        uid=meta["uid"],
        generation=meta["generation"],
        spec=spec,
        status=manifest.get("status") or {},
        deleting="deletionTimestamp" in meta,
    )


def _is_starting(pod: PodSeen) -> bool:
    """Whether it may tell of a download; a fetch pod is ready while it does."""
    match pod.component:
        case "worker":
            return not pod.ready
        case "fetch":
            return pod.phase == "Running"
        case _:
            return False


def _silent_pods(pods: Iterable[PodSeen]) -> list[tuple[str, str, str]]:
    """On a node, and neither running nor failing: a volume, a Secret, a ConfigMap is missing."""
    return [
        (kinds.POD.kind, pod.name, pod.uid)
        for pod in pods
        if pod.phase == "Pending" and pod.node is not None and not pod.reason and not pod.deleting
    ]


def _silent_objects(seen: Seen) -> list[tuple[str, str, str]]:
    """Jobs without a pod, claims without a volume."""
    with_pods = {pod.job for pod in seen.pods}
    jobs = [
        job
        for name, job in seen.of_kind("Job").items()
        if name not in with_pods and not (job.get("status") or {}).get("conditions")
    ]
    claims = [
        claim
        for claim in seen.of_kind("PersistentVolumeClaim").values()
        if (claim.get("status") or {}).get("phase") == "Pending"
    ]
    sets = seen.of_kind(kinds.LEADER_WORKER_SET.kind).values()
    short = [each for each in sets if not (each.get("status") or {}).get("replicas")]
    return [
        (each["kind"], each["metadata"]["name"], each["metadata"]["uid"])
        for each in (*jobs, *claims, *short)
    ]


def _event_time(listed: Manifest) -> float:
    """When it was last seen, unix seconds; 0 when it does not say."""
    series = listed.get("series") or {}
    text = (
        series.get("lastObservedTime")
        or listed.get("lastTimestamp")
        or listed.get("eventTime")
        or listed["metadata"].get("creationTimestamp")
    )
    return unix_s(text) if text else 0.0
