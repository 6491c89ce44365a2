"""Whatever happens between any two actions: nobody serving is taken, and all ends up the same."""

from __future__ import annotations

from copy import deepcopy
from random import Random
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from baton_operator import names
from baton_operator.actions import MarkVictim, Requeue, SetTraffic
from baton_operator.decide.situation import assess
from fakes.kube_store import RefusedError
from fakes.kube_world import NAME, KubeWorld
from fakes.service_specs import pool

IMAGES = ("baton:1", "baton:2", "baton:3")
POOLS = ("pre", "dec", "more")
LIMITS = ((1, 0), (0, 1), (2, 1), (1, 1))
BY_HAND = {"Service": {"type": "NodePort"}, "Deployment": {"revisionHistoryLimit": 99}}
ROLES = {"pre": "prefill", "dec": "decode", "more": "decode"}


def spec(
    image: str, counts: dict[str, int], limits: tuple[int, int], third: bool, nodes: int
) -> dict[str, Any]:
    surge, unavailable = limits
    return {
        "image": image,
        "model": {"source": "baton-tiny"},
        "pools": [
            pool(
                name,
                role,
                counts[name],
                rollout={"maxSurge": surge, "maxUnavailable": unavailable},
                parallelism={"tensor": nodes, "nodes": nodes if name == "dec" else 1},
            )
            for name, role in ROLES.items()
            if third or name != "more"
        ],
    }


class Operating(RuleBasedStateMachine):
    """Rounds of the operator, whole and cut off, among all that can happen to a service."""

    nodes_of_worker = 1
    """Pods of a worker in the pool `dec`."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = dict.fromkeys(POOLS, 2)
        self.limits = (1, 0)
        self.third = False
        self.world = KubeWorld(
            spec(IMAGES[0], self.counts, self.limits, self.third, self.nodes_of_worker)
        )
        self.world.kinds = frozenset({"LeaderWorkerSet"})
        self.world.settle()

    # The operator.

    @rule()
    def round(self) -> None:
        self._round(None, frozenset())

    @rule(random=st.randoms(use_true_random=False))
    def round_in_any_order(self, random: Random) -> None:
        """Actions are performed at the same time: none relies on another's being done."""
        self._round(None, frozenset(), random)

    @rule(at_most=st.integers(0, 4))
    def killed_in_a_round(self, at_most: int) -> None:
        self._round(at_most, frozenset())

    @rule(refused=st.frozensets(st.integers(0, 8), max_size=5))
    def round_with_refusals(self, refused: frozenset[int]) -> None:
        """Conflicts, time-outs: some actions do not happen, the others do."""
        self._round(None, refused)

    def _round(
        self, at_most: int | None, refused: frozenset[int], random: Random | None = None
    ) -> None:
        world = self.world
        actions = world.actions()
        if random is not None:
            random.shuffle(actions)
        if any(isinstance(action, MarkVictim | SetTraffic) for action in actions):
            self._keeps_capacity(assess(world.seen(), world.installation), actions)
        for number, action in enumerate(actions[:at_most]):
            if number not in refused:
                # What changed in between fails, and is decided anew.
                try:
                    world.perform(action)
                except RefusedError:
                    continue

    def _keeps_capacity(self, situation: Any, actions: list[Any]) -> None:
        seen, rollout = situation.seen, situation.rollout
        chosen = {each.pod for each in actions if isinstance(each, MarkVictim) and each.since_s}
        available = self.world.available()
        for each in rollout.pools:
            taken = sum(
                pod.name in chosen and pod.drain_since is None and pod.ready
                for pod in seen.workers
                if pod.pool == each.name and pod.name not in self.world.drains
            )
            if taken:
                assert available[each.name] - taken >= each.desired - each.max_unavailable
        for action in actions:
            if isinstance(action, SetTraffic):
                for revision in action.weights:
                    self._can_serve(seen, revision)

    def _can_serve(self, seen: Any, revision: str) -> None:
        roles = {pod.role for pod in seen.workers if pod.revision == revision and pod.ready}
        assert roles == {"prefill", "decode"}

    # The cluster.

    @rule()
    def controllers(self) -> None:
        self.world.controllers()
        assert self.world.killed_serving == []

    @rule()
    def nodes(self) -> None:
        for pod in self.world.pods():
            self.world.start(pod)

    @rule(number=st.integers(0, 30))
    def one_pod_goes_on(self, number: int) -> None:
        pod = self._pod(number)
        if pod is not None:
            self.world.start(pod)

    @rule(number=st.integers(0, 30))
    def one_pod_is_gone(self, number: int) -> None:
        pod = self._pod(number)
        if pod is not None:
            self.world.finish(pod)

    @rule(number=st.integers(0, 30))
    def a_pod_is_killed(self, number: int) -> None:
        pod = self._pod(number)
        if pod is not None:
            self.world.kill(pod)

    @rule(number=st.integers(0, 30))
    def a_pod_crashes(self, number: int) -> None:
        pod = self._pod(number)
        if pod is not None:
            self.world.crash(pod)

    @rule(seconds=st.sampled_from((1.0, 30.0, 130.0, 2000.0)))
    def time_passes(self, seconds: float) -> None:
        self.world.now_s += seconds

    @rule(number=st.integers(0, 30), load=st.integers(0, 3))
    def requests_come_and_go(self, number: int, load: int) -> None:
        pod = self._pod(number)
        if pod is not None:
            self.world.load[pod["metadata"]["name"]] = load

    @rule(answer=st.booleans())
    def gateways(self, answer: bool) -> None:
        self.world.gateways_answer = answer

    @rule(quota=st.sampled_from((None, 4, 8)))
    def quota(self, quota: int | None) -> None:
        self.world.quota = quota

    @rule(images=st.frozensets(st.sampled_from(IMAGES[1:])))
    def images_break(self, images: frozenset[str]) -> None:
        self.world.broken_images = set(images)

    # Users.

    @rule(pool=st.sampled_from(POOLS), replicas=st.integers(0, 4))
    def somebody_scales(self, pool: str, replicas: int) -> None:
        self.world.scale(pool, replicas)

    @rule(pool=st.sampled_from(POOLS), replicas=st.integers(0, 4))
    def the_count_is_edited(self, pool: str, replicas: int) -> None:
        self.counts = {**self.counts, pool: replicas}
        self._edit(self.world.spec["image"])

    @rule(image=st.sampled_from(IMAGES))
    def the_image_is_edited(self, image: str) -> None:
        self._edit(image)

    @rule(third=st.booleans())
    def a_pool_comes_or_goes(self, third: bool) -> None:
        self.third = third
        self._edit(self.world.spec["image"])

    @rule(limits=st.sampled_from(LIMITS))
    def the_limits_are_edited(self, limits: tuple[int, int]) -> None:
        self.limits = limits
        self._edit(self.world.spec["image"])

    @rule(
        strategy=st.sampled_from(("PairFirst", "InPlace")),
        weight=st.sampled_from((None, 0, 30, 100)),
        paused=st.booleans(),
    )
    def the_rollout_is_edited(self, strategy: str, weight: int | None, paused: bool) -> None:
        rollout: dict[str, Any] = {"strategy": strategy, "paused": paused}
        if weight is not None and strategy == "PairFirst":
            rollout["weight"] = weight
        self.world.edit({"rollout": rollout})

    @precondition(lambda self: "rollout" in self.world.spec)
    @rule()
    def the_rollout_is_left_alone(self) -> None:
        self.world.edit({"rollout": {}})

    @rule(number=st.integers(0, 20))
    def a_child_is_deleted(self, number: int) -> None:
        # Without its settings an old revision cannot be brought back: its spec is gone.
        keys = [key for key in self.world.store.objects if key[0] not in ("Pod", "ConfigMap")]
        if keys:
            self.world.store.delete(sorted(keys)[number % len(keys)])

    @rule(number=st.integers(0, 20))
    def a_child_is_changed(self, number: int) -> None:
        keys = sorted(key for key in self.world.store.objects if key[0] in BY_HAND)
        if keys:
            key = keys[number % len(keys)]
            self.world.store.merge(key, {"spec": BY_HAND[key[0]]})

    def _edit(self, image: str) -> None:
        self.world.edit(spec(image, self.counts, self.limits, self.third, self.nodes_of_worker))

    def _pod(self, number: int) -> dict[str, Any] | None:
        pods = self.world.pods()
        return pods[number % len(pods)] if pods else None

    def teardown(self) -> None:
        world = self.world
        world.edit({"rollout": {}})
        world.settle()
        assert world.killed_serving == []
        assert [a for a in world.actions() if not isinstance(a, Requeue)] == []
        sizes = {
            name: world.store.objects[names.POOL_KIND, names.worker_pool(NAME, name)]["spec"][
                "replicas"
            ]
            for name in POOLS
            if self.third or name != "more"
        }
        assert world.available() == sizes
        assert children(world) == children(afresh(world.spec, sizes))


def afresh(asked: dict[str, Any], sizes: dict[str, int]) -> KubeWorld:
    """The same service where nothing else ever happened."""
    world = KubeWorld(asked)
    world.kinds = frozenset({"LeaderWorkerSet"})
    world.settle()
    for name, size in sizes.items():
        world.scale(name, size)
    world.settle()
    return world


def children(world: KubeWorld) -> dict[tuple[str, str], Any]:
    """What was made, without what tells when and how often it was changed."""
    found = {}
    for key, manifest in world.store.objects.items():
        if key[0] == "Pod":
            continue
        meta = {
            name: manifest["metadata"].get(name)
            for name in ("name", "labels", "annotations", "ownerReferences")
        }
        found[key] = deepcopy({"metadata": meta, "spec": manifest.get("spec")})
    return found


class OperatingGroups(Operating):
    """The same where a pool's workers are groups of pods."""

    nodes_of_worker = 2


Operating.TestCase.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
TestOperating = Operating.TestCase
OperatingGroups.TestCase.settings = Operating.TestCase.settings
TestOperatingGroups = OperatingGroups.TestCase
