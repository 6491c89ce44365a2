"""From what the watches told, and what pods answer, to `Seen`: the input of one round."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from pydantic import ValidationError

from baton.telemetry.logging import event
from baton_operator import kinds
from baton_operator.decide.suspects import Suspect, suspects
from baton_operator.decide.troubles import privileged_parts
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
        self._events: dict[Suspect, tuple[float, tuple[EventSeen, ...]]] = {}

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
            self._level(seen.service),
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
        asked = suspects(seen)[:MAX_SUSPECTS]
        found = await asyncio.gather(*(self._events_of(each) for each in asked))
        return tuple(each for events in found for each in events)

    async def _events_of(self, suspect: Suspect) -> tuple[EventSeen, ...]:
        at, known = self._events.get(suspect, (float("-inf"), ()))
        now = self._now()
        if now - at < EVENTS_FOR_S:
            return known
        self._events = {
            each: entry for each, entry in self._events.items() if now - entry[0] < EVENTS_FOR_S
        }
        try:
            listed = await self._client.list_all(
                kinds.EVENT, suspect.namespace, fields=suspect.fields
            )
        except ApiError as error:
            about = event("events_not_read", kind=suspect.kind, name=suspect.name, error=str(error))
            log.debug(*about)
            return ()
        warnings = suspect.warnings(listed)
        self._events[suspect] = (now, warnings)
        return warnings

    async def _level(self, service: ServiceSeen) -> str:
        """What the namespace enforces, where it matters; where it may not be read, pods will tell.

        Of a new service it would be the one call that all others wait for.
        """
        namespace = service.namespace
        if not privileged_parts(service.spec):
            return "privileged"
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
