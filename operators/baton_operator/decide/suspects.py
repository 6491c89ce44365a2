"""What does not come up without its status saying why: whose events are worth a look (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from baton_operator import kinds
from baton_operator.decide.text import unix_s
from baton_operator.seen import EventSeen, Manifest, Seen

# What LeaderWorkerSet makes its pods by. Not watched: there is nothing else to learn from them.
STATEFUL_SET = "StatefulSet"
_MADE = "SuccessfulCreate"


@dataclass(frozen=True, slots=True)
class Suspect:
    """An object whose events are asked for."""

    kind: str
    namespace: str
    name: str
    uid: str = ""
    """Empty: it is known by its name alone."""
    since_s: float = 0.0
    """Unix seconds: what was told before is of another object of that name."""

    @property
    def fields(self) -> str:
        """The field selector of its events: warnings alone, or all where only the newest counts."""
        if self.uid:
            return f"involvedObject.uid={self.uid},type=Warning"
        return f"involvedObject.kind={self.kind},involvedObject.name={self.name}"

    def warnings(self, events: Iterable[Manifest]) -> tuple[EventSeen, ...]:
        """Of those events what is not over: a refusal is, once a later pod was made."""
        at = [(time_s, each) for each in events if (time_s := _event_time(each)) >= self.since_s]
        made_s = max((time_s for time_s, each in at if each.get("reason") == _MADE), default=0.0)
        return tuple(
            EventSeen(
                self.kind, self.name, each.get("reason") or "", each.get("message") or "", time_s
            )
            for time_s, each in at
            if each.get("type", "Warning") == "Warning" and time_s >= made_s
        )


def suspects(seen: Seen) -> list[Suspect]:
    """The rarer first: of pods that start there may be many at any time."""
    return [*_short_sets(seen), *_silent_objects(seen), *_silent_pods(seen)]


def _silent_pods(seen: Seen) -> Iterator[Suspect]:
    """On a node, and neither running nor failing: a volume, a Secret, a ConfigMap is missing."""
    for pod in seen.pods:
        if pod.phase == "Pending" and pod.node is not None and not pod.reason and not pod.deleting:
            yield Suspect(kinds.POD.kind, seen.service.namespace, pod.name, pod.uid)


def _silent_objects(seen: Seen) -> Iterator[Suspect]:
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
    for each in (*jobs, *claims):
        meta = each["metadata"]
        yield Suspect(each["kind"], seen.service.namespace, meta["name"], meta["uid"])


def _short_sets(seen: Seen) -> Iterator[Suspect]:
    """LeaderWorkerSets that lack pods, and the first StatefulSet that should have made one.

    That of the leaders has the set's own name and makes NAME-GROUP; each leader has one of its name
    that makes the others of its group, NAME-GROUP-POD. Neither tells the set what it was refused,
    and neither is older than the set.
    """
    there, namespace = {pod.name for pod in seen.pods}, seen.service.namespace
    for name, found in seen.of_kind(kinds.LEADER_WORKER_SET.kind).items():
        size = found["spec"]["leaderWorkerTemplate"].get("size", 1)
        since_s = _time(found["metadata"].get("creationTimestamp"))
        leaders = [f"{name}-{group}" for group in range(found["spec"].get("replicas", 1))]
        if not there.issuperset(leaders):
            yield Suspect(STATEFUL_SET, namespace, name, since_s=since_s)
            if there.isdisjoint(leaders):
                yield Suspect(found["kind"], namespace, name, found["metadata"]["uid"])
            continue
        others = {leader: {f"{leader}-{pod}" for pod in range(1, size)} for leader in leaders}
        short = [leader for leader in leaders if not others[leader] <= there]
        if short:
            yield Suspect(STATEFUL_SET, namespace, short[0], since_s=since_s)


def _event_time(listed: Manifest) -> float:
    """When it was last seen, unix seconds; 0 when it does not say."""
    series = listed.get("series") or {}
    text = (
        series.get("lastObservedTime")
        or listed.get("lastTimestamp")
        or listed.get("eventTime")
        or listed["metadata"].get("creationTimestamp")
    )
    return _time(text)


def _time(text: str | None) -> float:
    return unix_s(text) if text else 0.0
