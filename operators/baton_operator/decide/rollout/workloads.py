"""The service's workers by pool and revision: what was seen, counted for decisions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from baton_operator import names
from baton_operator.seen import LEADER_WORKER_SET, Manifest, PodSeen, Seen, Signals

ROLES = ("prefill", "decode", "any")
WORKLOAD_KINDS = ("Deployment", LEADER_WORKER_SET)


@dataclass(frozen=True, slots=True)
class Workload:
    """The Deployment or LeaderWorkerSet of one revision of a pool.

    A pod here is a worker: of a group, its leader.
    """

    pool: str
    role: str
    revision: str
    kind: str
    name: str
    uid: str
    replicas: int
    pods: tuple[PodSeen, ...] = ()
    """Those that stay unless they are chosen: neither deleted nor about to be by their
    controller. In the order in which they would go."""
    num_pods: int = 0
    """All that exist, those being deleted among them."""
    available: int = 0
    """Of `pods`: those that take new requests."""
    broken: int = 0
    """Kept replicas that would go first and serve nothing: missing, starting or failing."""

    @property
    def in_order(self) -> bool:
        """Whether its controller removes the highest number, whatever is there."""
        return self.kind == LEADER_WORKER_SET

    @property
    def slots(self) -> tuple[PodSeen | None, ...]:
        """Each replica, in the order in which they would go; None: it has no pod (yet)."""
        return slots(self.pods, self.replicas, self.in_order)

    @property
    def kept(self) -> int:
        """Replicas that are not on their way out; some may not have a pod yet."""
        return max(0, self.replicas - sum(pod.drain_since is not None for pod in self.pods))


Fleet = dict[tuple[str, str], Workload]
"""By pool and revision."""


def fleet_of(seen: Seen) -> Fleet:
    """All worker workloads of the service, of every revision."""
    pods: dict[tuple[str, str], list[PodSeen]] = defaultdict(list)
    for pod in seen.workers:
        pods[pod.pool, pod.revision].append(pod)
    fleet = {}
    for kind in WORKLOAD_KINDS:
        for manifest in seen.of_kind(kind).values():
            labels = manifest["metadata"].get("labels") or {}
            key = labels.get(names.LABEL_POOL, ""), labels.get(names.LABEL_REVISION, "")
            if all(key) and labels.get(names.LABEL_ROLE) in ROLES:
                fleet[key] = _workload(kind, manifest, pods[key], seen.signals)
    return fleet


def _workload(
    kind: str, manifest: Manifest, pods: Iterable[PodSeen], signals: Signals | None
) -> Workload:
    labels, found = manifest["metadata"]["labels"], list(pods)
    replicas = manifest["spec"].get("replicas", 1)
    staying = sorted(
        (pod for pod in found if not pod.deleting and pod.phase not in ("Succeeded", "Failed")),
        key=lambda pod: removal_key(pod, signals),
    )
    in_order = kind == LEADER_WORKER_SET
    # The others are removed next: their controller was told of fewer.
    if in_order:
        staying = [pod for pod in staying if (pod.group_index or 0) < replicas]
    else:
        staying = staying[max(0, len(staying) - replicas) :]
    unchosen = (
        pod for pod in slots(staying, replicas, in_order) if pod is None or pod.drain_since is None
    )
    idle = takewhile(lambda pod: pod is None or not serves(pod, signals), unchosen)
    return Workload(
        pool=labels[names.LABEL_POOL],
        role=labels[names.LABEL_ROLE],
        revision=labels[names.LABEL_REVISION],
        kind=kind,
        name=manifest["metadata"]["name"],
        uid=manifest["metadata"].get("uid", ""),
        replicas=replicas,
        pods=tuple(staying),
        num_pods=len(found),
        available=sum(serves(pod, signals) for pod in staying),
        broken=sum(1 for _ in idle),
    )


def slots(pods: Sequence[PodSeen], replicas: int, in_order: bool) -> tuple[PodSeen | None, ...]:
    """`Workload.slots` of `pods`, which are in the order in which they would go.

    A ReplicaSet makes up for a missing pod by removing one less; a LeaderWorkerSet does not.
    """
    if not in_order:
        return (None,) * (replicas - len(pods)) + tuple(pods)
    numbered = {pod.group_index: pod for pod in pods}
    return tuple(numbered.get(index) for index in reversed(range(replicas)))


def serves(pod: PodSeen, signals: Signals | None) -> bool:
    """Whether it takes new requests."""
    return pod.ready and pod.drain_since is None and not pod.deleting and not drains(pod, signals)


def drains(pod: PodSeen, signals: Signals | None) -> bool:
    """Whether a gateway says that it drains, whoever asked for it."""
    signal = signals.workers.get(pod.name) if signals else None
    return signal is not None and signal.draining


def removal_key(pod: PodSeen, signals: Signals | None) -> tuple[int, bool, bool, bool, int, str]:
    """Sorts pods by who should go first.

    A LeaderWorkerSet always removes its highest group. A ReplicaSet removes what has not started
    before what runs, and what is not ready before what is; only then does it look at the deletion
    cost. Within that: those already chosen, so that a choice lasts, then the emptiest.
    """
    signal = signals.workers.get(pod.name) if signals else None
    return (
        0 if pod.group_index is None else -pod.group_index,
        pod.node is not None and pod.phase == "Running",
        pod.drain_since is None,
        serves(pod, signals),
        signal.num_requests if signal else 0,
        pod.name,
    )
