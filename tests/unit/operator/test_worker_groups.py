"""Workers of several pods: one group is one worker, and its leader stands for it."""

from __future__ import annotations

from typing import Any

from baton_operator import names
from baton_operator.actions import Drain, MarkVictim, Scale
from fakes.kube_groups import is_other
from fakes.kube_world import NAME, KubeWorld
from fakes.service_specs import pool

NODES = 3


def spec(decoders: int, image: str = "baton:1") -> dict[str, Any]:
    wide = {"parallelism": {"tensor": NODES, "nodes": NODES}}
    return {
        "image": image,
        "model": {"source": "baton-tiny"},
        "pools": [pool("pre", "prefill", 1), pool("dec", "decode", decoders, **wide)],
    }


def begun(decoders: int) -> KubeWorld:
    world = KubeWorld(spec(decoders))
    world.kinds = frozenset({"LeaderWorkerSet"})
    world.settle()
    return world


def pods(world: KubeWorld) -> list[str]:
    """Of the pool, without what they have in common in their names."""
    return sorted(
        each["metadata"]["name"].removeprefix(f"{the_set(world)}-")
        for each in world.pods("worker")
        if each["metadata"]["labels"][names.LABEL_POOL] == "dec"
    )


def the_set(world: KubeWorld) -> str:
    [found] = world.store.of_kind("LeaderWorkerSet")
    return str(found["metadata"]["name"])


def kinds(actions: list[Any], *wanted: type) -> list[Any]:
    return [each for each in actions if isinstance(each, wanted)]


def test_only_leaders_are_counted() -> None:
    world = begun(2)
    assert pods(world) == ["0", "0-1", "0-2", "1", "1-1", "1-2"]
    assert world.available() == {"pre": 1, "dec": 2}
    assert world.status["workers"] == "3/3"
    status = world.store.objects[names.POOL_KIND, names.worker_pool(NAME, "dec")]["status"]
    assert (status["replicas"], status["readyReplicas"]) == (2, 2)


def test_an_autoscaler_measures_the_leaders() -> None:
    """It takes each pod that the selector picks for a replica."""
    world = begun(1)
    found = {
        name: world.store.objects[names.POOL_KIND, names.worker_pool(NAME, name)]["status"]
        for name in ("pre", "dec")
    }
    assert "leaderworkerset.sigs.k8s.io/worker-index=0" in found["dec"]["selector"].split(",")
    assert "leaderworkerset" not in found["pre"]["selector"]


def test_the_highest_group_goes_however_busy_it_is() -> None:
    """Its controller takes no other."""
    world = begun(3)
    name = the_set(world)
    world.load = {f"{name}-0": 0, f"{name}-1": 1, f"{name}-2": 9}
    world.scale("dec", 2)
    assert [each.pod for each in kinds(world.round(), MarkVictim)] == [f"{name}-2"]
    assert [each.worker for each in kinds(world.round(), Drain)] == [f"{name}-2"]
    assert kinds(world.round(), Scale) == []
    world.load[f"{name}-2"] = 0
    for _ in range(2):
        world.round()
    world.settle()
    assert pods(world) == ["0", "0-1", "0-2", "1", "1-1", "1-2"]
    assert world.killed_serving == []


def test_a_missing_group_does_not_save_the_highest() -> None:
    """Of a Deployment one fewer would be what there is already."""
    world = begun(3)
    name = the_set(world)
    world.kill(world.store.objects["Pod", f"{name}-1"])
    world.finish(world.store.objects["Pod", f"{name}-1"])
    world.load = {f"{name}-2": 4}
    world.scale("dec", 2)
    actions = world.round()
    # What serves stays until group 1 is back: two are wanted, and two serve.
    assert kinds(actions, Scale, MarkVictim) == []
    world.settle()
    assert pods(world) == ["0", "0-1", "0-2", "1", "1-1", "1-2"]
    assert world.killed_serving == []


def test_a_highest_group_that_is_missing_goes_at_once() -> None:
    world = begun(3)
    name = the_set(world)
    for pod in [each for each in world.pods("worker") if f"{name}-2" in each["metadata"]["name"]]:
        world.kill(pod)
        world.finish(pod)
    world.scale("dec", 2)
    actions = world.round()
    assert [each.replicas for each in kinds(actions, Scale)] == [2]
    assert kinds(actions, MarkVictim, Drain) == []


def test_a_pod_that_fails_ends_its_worker_which_comes_back() -> None:
    world = begun(2)
    other = next(each for each in world.pods("worker") if is_other(each))
    world.crash(other)
    world.controllers()
    for pod in world.pods():
        world.finish(pod)
    assert world.available()["dec"] == 1
    world.settle()
    assert world.available()["dec"] == 2
    assert len(pods(world)) == 2 * NODES


def test_a_rollout_makes_another_set_and_keeps_the_capacity() -> None:
    world = begun(2)
    world.edit(spec(2, "baton:2"))
    for _ in range(120):
        world.now_s += 1.0
        world.round()
        world.controllers()
        for each in world.pods():
            world.start(each)
            world.finish(each)
        assert world.available()["dec"] >= 2
        if "updating" not in world.status["revision"]:
            break
    assert {each["spec"]["containers"][0]["image"] for each in world.pods("worker")} == {"baton:2"}
    assert len(pods(world)) == 2 * NODES
    assert world.killed_serving == []


def test_one_node_more_makes_a_group_of_a_pod() -> None:
    world = KubeWorld({**spec(1), "pools": [pool("pre", "prefill", 1), pool("dec", "decode", 1)]})
    world.kinds = frozenset({"LeaderWorkerSet"})
    world.settle()
    assert not world.store.of_kind("LeaderWorkerSet")
    world.edit(spec(1))
    world.settle()
    assert pods(world) == ["0", "0-1", "0-2"]
    # Of the other pool and of the gateways.
    assert len(world.store.of_kind("Deployment")) == 2
