"""A pass of LeaderWorkerSet's controller over a `KubeWorld`, as far as this operator sees it.

After sigs.k8s.io/lws v0.7 to v0.10: leaders are a StatefulSet's pods `NAME-GROUP`, the others of a
group another's, `NAME-GROUP-POD`. A smaller count removes the highest groups. Whatever happens to
one pod of a group ends all of it, and a new one of the same names follows.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from baton_operator import names

if TYPE_CHECKING:
    from fakes.kube_world import KubeWorld

Manifest = dict[str, Any]


def reconcile_groups(world: KubeWorld, owner: Manifest) -> list[str]:
    """The names of leaders that were taken because there are to be fewer groups."""
    name, replicas = owner["metadata"]["name"], owner["spec"]["replicas"]
    template = owner["spec"]["leaderWorkerTemplate"]
    for leader, pods in _groups(world, owner).items():
        ends = leader not in {pod["metadata"]["name"] for pod in pods}
        if ends or any(_is_over(pod) for pod in pods):
            for pod in pods:
                world.kill(pod)
    surplus = [
        pod
        for pod in _mine(world, owner)
        if _number(pod, names.LABEL_GROUP) >= replicas and not is_other(pod)
    ]
    taken = [pod["metadata"]["name"] for pod in surplus if not _is_over(pod)]
    for pod in surplus:
        world.kill(pod)
    for group in range(replicas):
        if ("Pod", f"{name}-{group}") not in world.store.objects:
            _make(world, owner, template["leaderTemplate"], group, 0)
        leader = world.store.objects.get(("Pod", f"{name}-{group}"))
        if leader is None or _is_over(leader):
            continue
        for pod in range(1, template["size"]):
            if ("Pod", f"{name}-{group}-{pod}") not in world.store.objects:
                _make(world, owner, template["workerTemplate"], group, pod)
    return taken


def is_other(pod: Manifest) -> bool:
    """Whether it is of a group, and not its leader."""
    return _number(pod, names.LABEL_GROUP_POD) > 0


def lacks_others(world: KubeWorld, pod: Manifest) -> bool:
    """Whether it is a leader that still waits for the others of its group."""
    owner = next(
        (
            each
            for each in world.store.of_kind("LeaderWorkerSet")
            if each["metadata"]["uid"] == pod["owner"]
        ),
        None,
    )
    if owner is None or is_other(pod):
        return False
    group = _groups(world, owner)[pod["metadata"]["name"]]
    running = [each for each in group if is_other(each) and each["status"]["phase"] == "Running"]
    return len(running) < owner["spec"]["leaderWorkerTemplate"]["size"] - 1


def _groups(world: KubeWorld, owner: Manifest) -> dict[str, list[Manifest]]:
    """All their pods, by the leader's name."""
    found: dict[str, list[Manifest]] = {}
    for pod in _mine(world, owner):
        name = f"{owner['metadata']['name']}-{_number(pod, names.LABEL_GROUP)}"
        found.setdefault(name, []).append(pod)
    return found


def _make(world: KubeWorld, owner: Manifest, template: Manifest, group: int, pod: int) -> None:
    if world.quota is not None and len(world.pods()) >= world.quota:
        return
    name = f"{owner['metadata']['name']}-{group}" + (f"-{pod}" if pod else "")
    made = deepcopy(template)
    made["metadata"]["labels"] |= {names.LABEL_GROUP: str(group), names.LABEL_GROUP_POD: str(pod)}
    world.make_pod(owner, made, name)


def _mine(world: KubeWorld, owner: Manifest) -> list[Manifest]:
    return [pod for pod in world.pods() if pod["owner"] == owner["metadata"]["uid"]]


def _is_over(pod: Manifest) -> bool:
    restarts = (each.get("restartCount") for each in pod["status"].get("containerStatuses") or ())
    return "deletionTimestamp" in pod["metadata"] or any(restarts)


def _number(pod: Manifest, label: str) -> int:
    return int(pod["metadata"]["labels"].get(label, 0))
