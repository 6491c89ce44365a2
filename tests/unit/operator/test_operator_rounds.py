"""Rounds of services: each sees what the last was refused, and one that fails stops no other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from baton_operator import names
from baton_operator.actions import Action, Apply, PatchStatus
from baton_operator.kube.client import KubeClient
from baton_operator.kube.lease import LeaseLostError
from baton_operator.kube.object_cache import Cache, Key
from baton_operator.kube.recorder import Recorder
from baton_operator.metrics import OperatorMetrics
from baton_operator.rounds.controller import SECRET_RETRY_S, Controller, Pace
from baton_operator.rounds.observe import Observer
from baton_operator.rounds.perform import Performer
from baton_operator.rounds.queue import WorkQueue
from baton_operator.seen import Seen
from fakes.kube_api import KubeApi, served
from fakes.silent_gateways import Silence
from fakes.until import until

SPEC = {"model": {"source": "example/tiny"}, "pools": [{"name": "all", "role": "any"}]}
SERVICES = "/apis/baton.dev/v1alpha1/namespaces/ns/modelservices"
MAPS = "/api/v1/namespaces/ns/configmaps"


@dataclass
class World:
    api: KubeApi
    cache: Cache
    metrics: OperatorMetrics
    controller: Controller
    decide: Callable[[Seen], Sequence[Action]] = lambda seen: []
    seen: list[Seen] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    now: float = 0.0
    leading: bool = True

    def of(self, name: str) -> list[Seen]:
        return [each for each in self.seen if each.service.name == name]

    def put(
        self,
        name: str = "chat",
        uid: str = "u1",
        spec: dict[str, Any] = SPEC,
        generation: int = 1,
    ) -> Key:
        """The service as a watch tells of it."""
        meta = {
            "name": name,
            "namespace": "ns",
            "uid": uid,
            "generation": generation,
        }
        manifest = {"metadata": meta, "spec": spec}
        self.api.store(f"{SERVICES}/{name}", manifest)
        key = self.cache.put(names.SERVICE_KIND, manifest)
        assert key is not None
        self.controller.add(key)
        return key

    def taken(self, seen: Seen) -> Sequence[Action]:
        self.seen.append(seen)
        return self.decide(seen)


@contextlib.asynccontextmanager
async def working(
    min_interval_s: float = 0.0, tick_s: float = 1000.0, backoff_s: float = 0.01
) -> AsyncIterator[World]:
    api, cache = KubeApi(), Cache()
    metrics = OperatorMetrics(CollectorRegistry())
    async with served(api) as configuration:
        client = KubeClient(configuration, timeout_s=5)
        recorder = Recorder(client, "me", lambda: 0.0)
        controller = Controller(
            cache,
            WorkQueue(min_interval_s, backoff_s, max_backoff_s=2 * backoff_s),
            Observer(cache, client, Silence(), frozenset, frozenset, lambda: 0.0),
            lambda seen: world.taken(seen),
            Performer(client, cache, Silence(), recorder, metrics, lambda: world.leading),
            metrics,
            Pace(tick_s, resync_s=600),
            on_round=lambda seen: None,
            on_gone=lambda uid: world.gone.append(uid),
        )
        world = World(api, cache, metrics, controller)
        hands = [asyncio.create_task(controller.work()) for _ in range(2)]
        try:
            yield world
        finally:
            for hand in hands:
                hand.cancel()
            ended = await asyncio.gather(*hands, return_exceptions=True)
            await recorder.close()
            await client.close()
        for each in ended:
            if isinstance(each, Exception):
                raise each


def config_map(name: str, **data: str) -> dict[str, Any]:
    owners = [{"uid": "u1"}]
    meta = {
        "name": name,
        "namespace": "ns",
        "labels": {names.LABEL_SERVICE: "chat"},
        "ownerReferences": owners,
    }
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


async def test_a_service_gets_a_round_and_another_after_the_tick() -> None:
    async with working(tick_s=0.02) as world:
        world.put()
        await until(lambda: len(world.seen) >= 3)


async def test_what_each_round_waited_for_its_turn_is_measured_apart() -> None:
    async with working(tick_s=0.02) as world:
        world.put()
        await until(lambda: len(world.seen) >= 3)
        told = dict(
            line.rsplit(" ", 1)
            for line in world.metrics.render().decode().splitlines()
            if not line.startswith("#")
        )
    rounds = float(told['baton_operator_reconcile_duration_seconds_count{result="ok"}'])
    # The one in progress has waited, and not ended.
    assert float(told["baton_operator_queue_duration_seconds_count"]) - rounds in (0, 1)


async def test_a_secret_that_was_refused_is_written_again_until_it_is_taken() -> None:
    async with working(tick_s=0.01) as world:
        taken = False
        world.api.refuse = lambda method, path: (
            (409, "Conflict") if "/secrets/" in path and not taken else None
        )
        world.decide = lambda seen: (
            [Apply({**config_map("internal"), "kind": "Secret"})] if seen.rewrite_secrets else []
        )
        world.put()
        await until(lambda: len(world.seen) >= 4)
        assert all(seen.refused for seen in world.seen[1:])
        taken = True
        await until(lambda: not world.seen[-1].rewrite_secrets)
        assert not world.seen[-1].refused


async def test_what_was_refused_is_seen_in_the_next_round() -> None:
    async with working() as world:
        world.api.refuse = lambda method, path: (
            (403, "Forbidden") if path.startswith(MAPS) and method == "PATCH" else None
        )
        world.decide = lambda seen: [Apply(config_map("settings"))]
        key = world.put()
        await until(lambda: len(world.seen) >= 2)
        assert [(each.name, each.reason) for each in world.seen[1].refused] == [
            ("settings", "Forbidden")
        ]
        world.api.refuse = lambda method, path: None
        await until(lambda: f"{MAPS}/settings" in world.api.objects)
        before = len(world.seen)
        world.controller.add(key)
        await until(lambda: len(world.seen) > before)
        assert world.seen[-1].refused == () and world.seen[-1].objects


async def test_one_refused_object_keeps_the_rest_from_nothing_and_is_not_tried_at_each_event() -> (
    None
):
    async with working(backoff_s=60.0) as world:
        world.api.refuse = lambda method, path: (
            (403, "Forbidden") if path.endswith("/denied") and method == "PATCH" else None
        )
        world.decide = lambda seen: [Apply(config_map("denied"))]
        key = world.put()
        await until(lambda: len(world.seen) == 1)
        for number in range(2, 5):
            world.controller.add(key)
            await until(lambda number=number: len(world.seen) == number)  # type: ignore[misc]
        assert [len(seen.refused) for seen in world.seen] == [0, 1, 1, 1]
        writes = [path for method, path in world.api.calls if method == "PATCH"]
        assert writes == [f"{MAPS}/denied"]


async def test_a_new_generation_is_told_nothing_of_the_refusals_of_the_last() -> None:
    async with working(backoff_s=60.0) as world:
        world.api.refuse = lambda method, path: (422, "Invalid") if method == "PATCH" else None
        world.decide = lambda seen: [Apply(config_map("settings"))]
        world.put()
        await until(lambda: len(world.seen) == 1)
        world.put(generation=2)
        await until(lambda: len(world.seen) == 2)
        assert world.seen[1].refused == ()


async def test_a_mistake_in_one_services_round_stops_no_other() -> None:
    async with working() as world:

        def decide(seen: Seen) -> list[Action]:
            if seen.service.name == "bad":
                raise ZeroDivisionError
            return []

        world.decide = decide
        world.put("bad", uid="u2")
        world.put("good", uid="u3")
        await until(lambda: len(world.of("bad")) >= 3 and world.of("good"))


async def test_a_service_that_is_gone_is_forgotten() -> None:
    async with working(tick_s=0.02) as world:
        ready = {"type": "Ready", "status": "True", "reason": "Serving"}
        world.decide = lambda seen: [
            PatchStatus(names.SERVICE_KIND, seen.service.name, {"conditions": [ready]})
        ]
        key = world.put()
        await until(lambda: 'service="chat"' in world.metrics.render().decode())
        world.cache.remove(names.SERVICE_KIND, "u1", 1000)
        world.controller.add(key)
        await until(lambda: world.gone)
        assert world.gone == ["u1"]
        assert 'service="chat"' not in world.metrics.render().decode()


async def test_a_successor_of_the_same_name_is_another_service() -> None:
    async with working() as world:
        world.put(uid="u1")
        await until(lambda: len(world.seen) == 1)
        world.cache.remove(names.SERVICE_KIND, "u1", 1000)
        world.put(uid="u2")
        await until(lambda: len(world.seen) == 2)
        assert world.gone == ["u1"] and world.seen[1].service.uid == "u2"


async def test_a_spec_that_cannot_be_read_is_told_in_the_status_and_touches_nothing() -> None:
    async with working() as world:
        world.put(spec={**SPEC, "pools": "none"})
        await until(lambda: "status" in world.api.objects[f"{SERVICES}/chat"])
        conditions = world.api.objects[f"{SERVICES}/chat"]["status"]["conditions"]
        stalled = next(each for each in conditions if each["type"] == "Stalled")
        assert stalled["status"] == "True" and "pools" in stalled["message"]
        assert world.seen == []


async def test_without_the_lease_the_hands_end() -> None:
    with pytest.raises(LeaseLostError):
        async with working() as world:
            world.leading = False
            world.decide = lambda seen: [Apply(config_map("settings"))]
            world.put()
            await until(lambda: world.seen)
            await asyncio.sleep(0.05)
    assert [method for method, _ in world.api.calls if method != "GET"] == []


async def test_secrets_are_written_at_the_start_and_when_a_pod_misses_one() -> None:
    async with working() as world:
        key = world.put()
        await until(lambda: len(world.seen) == 1)
        world.controller.add(key)
        await until(lambda: len(world.seen) == 2)
        assert [each.rewrite_secrets for each in world.seen] == [True, False]
    assert SECRET_RETRY_S < 600, "sooner than what is due anyway"
