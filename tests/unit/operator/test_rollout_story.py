"""What a user sees of a rollout: who serves meanwhile, where it waits, how it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import baton_operator.decide.wanted
from baton_operator import names
from baton_operator.actions import Apply, Requeue
from fakes.kube_world import KubeWorld, is_ready
from fakes.service_specs import pair, pool


def workers(world: KubeWorld) -> dict[str, dict[str, int]]:
    """Ready workers by image and pool."""
    found: dict[str, dict[str, int]] = {}
    for pod in world.pods("worker"):
        labels = pod["metadata"]["labels"]
        image = pod["spec"]["containers"][0]["image"]
        if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]:
            pools = found.setdefault(image, {})
            pools[labels[names.LABEL_POOL]] = pools.get(labels[names.LABEL_POOL], 0) + 1
    return found


def step(world: KubeWorld, held: Callable[[dict[str, Any]], bool] = lambda pod: False) -> None:
    """Everybody's turn; pods that are `held` do not come up."""
    world.now_s += 1.0
    world.round()
    world.controllers()
    for each in world.pods():
        if not held(each):
            world.start(each)
        world.finish(each)


def watch(world: KubeWorld, until: Callable[[], bool], steps: int = 120) -> list[dict[str, Any]]:
    """Steps until it is so; what was ready after each."""
    seen = []
    for _ in range(steps):
        step(world)
        seen.append(workers(world))
        if until():
            return seen
    raise AssertionError(f"not within {steps} steps: {world.status}")


def condition(world: KubeWorld, kind: str) -> tuple[str, str]:
    found = next(each for each in world.status["conditions"] if each["type"] == kind)
    return found["status"], found["reason"]


def complete(world: KubeWorld) -> bool:
    return "updating" not in world.status["revision"]


def begun(asked: dict[str, Any]) -> KubeWorld:
    world = KubeWorld(asked)
    world.settle()
    return world


def test_new_pair_comes_before_any_old_worker_goes() -> None:
    world = begun(pair(2, 3))
    world.edit(pair(2, 3, "baton:2"))
    history = watch(world, lambda: complete(world))
    first = next(at for at in history if at.get("baton:1", {}) != {"pre": 2, "dec": 3})
    assert all(first["baton:2"].get(name, 0) >= 1 for name in ("pre", "dec"))
    assert workers(world) == {"baton:2": {"pre": 2, "dec": 3}}


def test_last_old_workers_of_both_pools_go_together() -> None:
    world = begun(pair(1, 4))
    world.edit(pair(1, 4, "baton:2"))
    for at in watch(world, lambda: complete(world)):
        old, new = at.get("baton:1", {}), at.get("baton:2", {})
        if set(old) != {"pre", "dec"}:
            # One may be ended a moment earlier; by then the new ones carry all.
            assert new == {"pre": 1, "dec": 4}


def test_capacity_stays_with_surge_and_one_is_missing_without() -> None:
    for limits, missing in (({"maxSurge": 1}, 0), ({"maxSurge": 0, "maxUnavailable": 1}, 1)):
        world = begun(pair(3, 3, **limits))
        world.edit(pair(3, 3, "baton:2", **limits))
        for at in watch(world, lambda w=world: complete(w)):  # type: ignore[misc]
            for name in ("pre", "dec"):
                count = sum(pools.get(name, 0) for pools in at.values())
                assert 3 - missing <= count <= 3 + limits["maxSurge"]


def test_pool_without_room_for_two_goes_last() -> None:
    asked = pair(3, 1)
    asked["pools"][1]["rollout"] = {"maxSurge": 0, "maxUnavailable": 1}
    world = begun(asked)
    world.edit({"image": "baton:2"})
    for at in watch(world, lambda: complete(world)):
        if not at.get("baton:1", {}).get("dec"):
            assert at["baton:2"]["pre"] >= 1
    assert workers(world) == {"baton:2": {"pre": 3, "dec": 1}}


def test_revision_that_never_gets_ready_stalls_and_takes_nobody_away() -> None:
    world = begun(pair(2, 2))
    world.broken_images = {"baton:2"}
    world.edit({**pair(2, 2, "baton:2"), "rollout": {"progressDeadlineSeconds": 60}})
    for _ in range(80):
        step(world)
        assert workers(world)["baton:1"] == {"pre": 2, "dec": 2}
    assert condition(world, "Stalled") == ("True", "ProgressDeadlineExceeded")
    assert condition(world, "Degraded") == ("True", "CrashLoop")
    assert condition(world, "Ready")[0] == "True"
    assert world.status["phase"] == "Stalled"
    told = [each for each in world.events if each.reason == "ProgressDeadlineExceeded"]
    assert len([each for each in told if each.message.startswith("Stalled")]) == 1

    # What was missing is there now: it goes on by itself.
    world.broken_images.clear()
    watch(world, lambda: complete(world))
    assert condition(world, "Stalled") == ("False", "NotStalled")
    assert workers(world) == {"baton:2": {"pre": 2, "dec": 2}}


def test_gateways_follow_once_the_new_pair_serves() -> None:
    world = begun(pair(1, 1))

    def image() -> str:
        gateway = world.store.objects["Deployment", names.gateway("demo")]
        found: str = gateway["spec"]["template"]["spec"]["containers"][0]["image"]
        return found

    world.broken_images = {"baton:2"}
    world.edit({**pair(1, 1, "baton:2"), "gateway": {"replicas": 3}})
    for _ in range(10):
        step(world)
    assert image() == "baton:1"
    # What changes none of their pods does not wait.
    assert world.store.objects["Deployment", names.gateway("demo")]["spec"]["replicas"] == 3
    world.broken_images.clear()
    world.settle()
    assert image() == "baton:2"


def is_new_gateway(pod: dict[str, Any]) -> bool:
    is_gateway = pod["metadata"]["labels"][names.LABEL_COMPONENT] == "gateway"
    return bool(is_gateway and pod["spec"]["containers"][0]["image"] == "baton:2")


@pytest.mark.parametrize("strategy", ["PairFirst", "InPlace"])
def test_last_old_workers_wait_for_gateways_that_can_use_the_new_ones(strategy: str) -> None:
    """With another tokenizer old gateways have nobody but old workers."""
    world = begun({**pair(1, 3), "rollout": {"strategy": strategy}})
    world.edit(pair(1, 3, "baton:2"))
    for _ in range(60):
        step(world, held=is_new_gateway)
    assert workers(world) == {"baton:1": {"pre": 1, "dec": 1}, "baton:2": {"pre": 1, "dec": 3}}
    assert condition(world, "Progressing") == ("True", "GatewaysUpdating")
    assert condition(world, "GatewayReady") == ("True", "GatewaysUpdating")
    gateways = world.store.objects["Deployment", names.gateway("demo")]
    why = {"reason": "ProgressDeadlineExceeded", "message": "ReplicaSet x has timed out"}
    gateways["status"]["conditions"] = [{"type": "Progressing", "status": "False", **why}]
    step(world, held=is_new_gateway)
    assert condition(world, "Stalled") == ("True", "GatewaysStuck")
    told = next(each for each in world.status["conditions"] if each["type"] == "Stalled")
    assert told["message"] == "1 of 2 gateways are new: ReplicaSet x has timed out"
    assert condition(world, "Ready")[0] == "True" and world.status["phase"] == "Stalled"

    # Their pods can start now: it goes on by itself.
    gateways["status"]["conditions"] = [{"type": "Progressing", "status": "True"}]
    watch(world, lambda: complete(world))
    assert workers(world) == {"baton:2": {"pre": 1, "dec": 3}}
    assert condition(world, "Stalled") == ("False", "NotStalled")


def test_gateways_are_mended_in_a_rollout_that_was_given_up() -> None:
    """Its first pair serves, so they have followed, and may be what is wrong."""
    world = begun(pair(1, 3))
    world.edit({**pair(1, 3, "baton:2"), "rollout": {"progressDeadlineSeconds": 60}})

    def is_second(pod: dict[str, Any]) -> bool:
        return pod["status"]["phase"] == "Pending" and "baton:2" in workers(world)

    for _ in range(80):
        step(world, held=is_second)
    assert condition(world, "Stalled") == ("True", "ProgressDeadlineExceeded")
    world.edit({"gateway": {"podTemplate": {"metadata": {"annotations": {"team": "a"}}}}})
    step(world)
    gateways = world.store.objects["Deployment", names.gateway("demo")]
    assert gateways["spec"]["template"]["metadata"]["annotations"]["team"] == "a"


def test_a_change_of_gateways_alone_is_told_until_they_are_replaced() -> None:
    world = begun(pair(1, 1))
    world.edit({"gateway": {"podTemplate": {"metadata": {"annotations": {"team": "a"}}}}})
    step(world)
    assert condition(world, "Progressing") == ("True", "GatewaysUpdating")
    assert condition(world, "Ready")[0] == "True"
    world.settle()
    assert condition(world, "Progressing") == ("False", "Complete")


def test_taking_the_spec_back_in_the_middle_keeps_the_old_workers() -> None:
    world = begun(pair(3, 3))
    before = {each["metadata"]["name"] for each in world.pods("worker")}
    world.edit(pair(3, 3, "baton:2"))
    watch(world, lambda: workers(world).get("baton:2") == {"pre": 1, "dec": 1})
    left = {each["metadata"]["name"] for each in world.pods("worker")} & before
    world.edit(pair(3, 3))
    watch(world, lambda: complete(world))
    assert workers(world) == {"baton:1": {"pre": 3, "dec": 3}}
    assert left <= {each["metadata"]["name"] for each in world.pods("worker")}
    assert any(each.reason == "RolledBack" for each in world.events)


def test_third_revision_in_the_middle_replaces_both() -> None:
    world = begun(pair(3, 3))
    world.edit(pair(3, 3, "baton:2"))
    watch(world, lambda: workers(world).get("baton:2") == {"pre": 1, "dec": 1})
    world.edit(pair(3, 3, "baton:3"))
    for at in watch(world, lambda: complete(world)):
        for name in ("pre", "dec"):
            assert sum(pools.get(name, 0) for pools in at.values()) >= 3
    assert workers(world) == {"baton:3": {"pre": 3, "dec": 3}}
    deployments = [each["metadata"]["name"] for each in world.store.of_kind("Deployment")]
    world.settle()
    assert len(world.store.of_kind("Deployment")) == 3, deployments


def test_canary_gets_its_share_and_waits() -> None:
    world = begun(pair(4, 4))
    old = world.status["revision"]["current"]
    world.edit({**pair(4, 4, "baton:2"), "rollout": {"weight": 25}})
    world.settle()
    new = world.status["revision"]["updating"]
    assert workers(world) == {"baton:1": {"pre": 3, "dec": 3}, "baton:2": {"pre": 1, "dec": 1}}
    assert world.traffic == {old: 0.75, new: 0.25}
    assert world.status["revision"]["weight"] == 25
    assert condition(world, "Progressing") == ("False", "Canary")
    world.now_s += 10_000
    world.settle()
    assert condition(world, "Stalled")[0] == "False"

    world.edit({"rollout": {}})
    world.settle()
    assert workers(world) == {"baton:2": {"pre": 4, "dec": 4}}
    assert world.traffic == {}


def test_canary_that_lost_a_role_gets_no_requests() -> None:
    world = begun(pair(2, 2))
    old = world.status["revision"]["current"]
    world.edit({**pair(2, 2, "baton:2"), "rollout": {"weight": 50}})
    world.settle()
    lost = next(
        each
        for each in world.pods("worker")
        if each["metadata"]["labels"][names.LABEL_POOL] == "dec"
        and each["spec"]["containers"][0]["image"] == "baton:2"
    )
    world.crash(lost)
    world.round()
    assert world.traffic == {old: 1.0}


def test_a_second_canary_takes_the_place_of_the_first_and_not_of_the_good_one() -> None:
    canary = {"rollout": {"weight": 25}}
    world = begun(pair(1, 4))
    good = world.status["revision"]["current"]
    world.edit({**pair(1, 4, "baton:2"), **canary})
    world.settle()
    assert workers(world)["baton:2"] == {"pre": 1, "dec": 1}
    world.edit({**pair(1, 4, "baton:3"), **canary})
    for _ in range(60):
        step(world)
        serving = workers(world)["baton:1"]
        assert serving["pre"] == 1 and serving["dec"] >= 3
        assert world.traffic[good] >= 0.75
    assert workers(world) == {"baton:1": {"pre": 1, "dec": 3}, "baton:3": {"pre": 1, "dec": 1}}
    assert world.traffic == {good: 0.75, world.status["revision"]["updating"]: 0.25}


def test_an_abandoned_revision_takes_no_slot_of_the_stable_one() -> None:
    world = begun(pair(2, 3))
    world.edit({**pair(2, 3, "baton:2"), "rollout": {"weight": 25}})
    world.settle()
    world.broken_images = {"baton:3"}
    world.edit({**pair(2, 3, "baton:3"), "rollout": {}})
    for _ in range(60):
        step(world)
    assert workers(world) == {"baton:1": {"pre": 2, "dec": 3}}


def test_an_abandoned_revision_serves_on_where_the_stable_one_cannot() -> None:
    world = begun(pair(1, 1))
    world.edit({**pair(1, 1, "baton:2"), "rollout": {"weight": 50}})
    world.settle()
    world.broken_images = {"baton:1", "baton:3"}
    for each in world.pods("worker"):
        if each["spec"]["containers"][0]["image"] == "baton:1":
            world.crash(each)
    world.edit(pair(1, 1, "baton:3") | {"rollout": {"weight": 50}})
    for _ in range(60):
        step(world)
        assert workers(world)["baton:2"] == {"pre": 1, "dec": 1}
    world.broken_images = {"baton:1"}
    watch(world, lambda: workers(world).get("baton:3") == {"pre": 1, "dec": 1})


def test_canary_needs_room_beside_the_old_worker() -> None:
    limits = {"maxSurge": 0, "maxUnavailable": 1}
    world = begun(pair(1, 1, **limits))
    world.edit({**pair(1, 1, "baton:2", **limits), "rollout": {"weight": 10}})
    world.settle()
    assert condition(world, "Stalled") == ("True", "CanaryNeedsSurge")
    assert workers(world) == {"baton:1": {"pre": 1, "dec": 1}}


def test_paused_rollout_stands_still_and_follows_sizes() -> None:
    world = begun(pair(2, 2))
    world.edit({**pair(2, 2, "baton:2"), "rollout": {"paused": True}})
    world.settle()
    assert workers(world) == {"baton:1": {"pre": 2, "dec": 2}}
    assert condition(world, "Progressing") == ("False", "Paused")
    world.scale("dec", 3)
    world.settle()
    assert workers(world) == {"baton:1": {"pre": 2, "dec": 3}}
    world.edit({"rollout": {}})
    world.settle()
    assert workers(world) == {"baton:2": {"pre": 2, "dec": 3}}


def test_in_place_replaces_each_pool_within_its_limits() -> None:
    world = begun({**pair(2, 2), "rollout": {"strategy": "InPlace"}})
    world.edit({"image": "baton:2"})
    for at in watch(world, lambda: complete(world)):
        for name in ("pre", "dec"):
            assert sum(pools.get(name, 0) for pools in at.values()) >= 2
    assert workers(world) == {"baton:2": {"pre": 2, "dec": 2}}


def test_removed_pool_goes_once_the_rest_is_new() -> None:
    asked = pair(2, 2)
    world = begun({**asked, "pools": [*asked["pools"], pool("more", "decode", 1)]})
    world.edit(asked)
    for at in watch(world, lambda: complete(world)):
        if not at.get("baton:1", {}).get("more") and at.get("baton:1") is not None:
            assert sum(pools.get("dec", 0) for pools in at.values()) >= 2
    world.settle()
    assert {pod["metadata"]["labels"][names.LABEL_POOL] for pod in world.pods("worker")} == {
        *("pre", "dec")
    }
    assert ("WorkerPool", "demo-more") not in world.store.objects


def test_another_version_of_the_operator_changes_no_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pair(1, 1)
    del asked["image"]
    world = begun(asked)
    assert world.status["image"] == "baton:1"
    build = baton_operator.decide.wanted.workload

    def built_another_way(*given: Any) -> dict[str, Any]:
        manifest = build(*given)
        manifest["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "NEW"})
        return manifest

    monkeypatch.setattr(baton_operator.decide.wanted, "workload", built_another_way)
    world.installation = replace(world.installation, image="baton:9")
    assert [each for each in world.actions() if not isinstance(each, Requeue)] == []
    # Nor does a change of the spec that is none of theirs.
    world.edit({"slo": {"ttftSeconds": 1.0}})
    applied = [each.manifest for each in world.actions() if isinstance(each, Apply)]
    assert [each for each in applied if names.LABEL_POOL in each["metadata"]["labels"]] == []


def test_the_operators_image_is_kept_and_no_image_of_the_user_takes_its_place() -> None:
    asked = pair(1, 1)
    del asked["image"]
    world = begun(asked)
    world.installation = replace(world.installation, image="baton:9")
    world.broken_images = {"baton:typo"}
    world.edit({"image": "baton:typo"})
    for _ in range(20):
        step(world)
    assert world.status["image"] == "baton:typo"
    del world.spec["image"]
    world.generation += 1
    world.settle()
    assert workers(world) == {"baton:1": {"pre": 1, "dec": 1}}
    assert (world.status["image"], world.status["defaultImage"]) == ("baton:1", "baton:1")


def test_a_service_that_always_named_its_image_takes_the_operators_once_it_names_none() -> None:
    world = begun(pair(1, 1, "baton:2"))
    assert "defaultImage" not in world.status
    world.installation = replace(world.installation, image="baton:9")
    del world.spec["image"]
    world.generation += 1
    world.settle()
    assert workers(world) == {"baton:9": {"pre": 1, "dec": 1}}
    assert world.status["defaultImage"] == "baton:9"
