"""Each action is the call that it says, and each refusal ends where it can be acted upon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from baton_operator import names
from baton_operator.actions import (
    Action,
    Apply,
    Delete,
    Drain,
    Emit,
    MarkVictim,
    PatchStatus,
    Requeue,
    SetPoolReplicas,
)
from baton_operator.kube.client import KubeClient
from baton_operator.kube.lease import LeaseLostError
from baton_operator.kube.object_cache import Cache, Key
from baton_operator.kube.recorder import Recorder
from baton_operator.metrics import OperatorMetrics
from baton_operator.rounds.perform import MAX_AT_ONCE, Outcome, Performer
from baton_operator.rounds.signals import SignalError
from baton_operator.seen import PodSeen, Seen, ServiceSeen
from baton_operator.types.model_service import ModelServiceSpec
from fakes.kube_api import KubeApi, served
from fakes.silent_gateways import Silence

KEY = Key("ns", "chat")
SERVICE = ServiceSeen(
    name="chat",
    namespace="ns",
    uid="u1",
    generation=1,
    spec=ModelServiceSpec.model_validate(
        {"model": {"source": "example/tiny"}, "pools": [{"name": "all", "role": "any"}]}
    ),
)
ABOUT = {"metadata": {"name": "chat", "namespace": "ns", "uid": "u1"}}
SEEN = Seen(SERVICE, now_s=0)
MAPS = "/api/v1/namespaces/ns/configmaps"


class Meeting(KubeApi):
    """Answers a write only when so many are there at the same time, or nobody comes any more."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.most = 0
        self._here = 0
        self._full = asyncio.Event()
        self._size = size

    async def answer(self, request: web.Request) -> web.Response:
        if request.method == "PATCH":
            self._here += 1
            self.most = max(self.most, self._here)
            if self._here == self._size:
                self._full.set()
            async with asyncio.timeout(20):
                await self._full.wait()
            self._here -= 1
        return await super().answer(request)


class Gateways(Silence):
    """Takes drains, or does not."""

    def __init__(self) -> None:
        self.deaf = False
        self.drained: list[str] = []

    async def drain(
        self,
        service: ServiceSeen,
        gateways: Sequence[PodSeen],
        worker: str,
        within_s: float,
        reason: str,
    ) -> None:
        if self.deaf:
            raise SignalError("nobody listens")
        self.drained.append(worker)

    async def undrain(self, service: ServiceSeen, gateways: Sequence[PodSeen], worker: str) -> None:
        self.drained.remove(worker)

    async def set_traffic(
        self, service: ServiceSeen, gateways: Sequence[PodSeen], weights: Mapping[str, float]
    ) -> None:
        raise SignalError("no traffic here")


@dataclass
class Stage:
    api: KubeApi
    cache: Cache
    gateways: Gateways
    metrics: OperatorMetrics
    performer: Performer
    recorder: Recorder
    leading: bool = True

    async def perform(self, *actions: Action, seen: Seen = SEEN) -> Outcome:
        outcome = await self.performer.perform(ABOUT, seen, actions)
        await self.recorder.flush()
        return outcome

    def reasons(self) -> list[str]:
        return [each["reason"] for at, each in self.api.objects.items() if "/events/" in at]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    api, cache, gateways = KubeApi(), Cache(), Gateways()
    metrics = OperatorMetrics(CollectorRegistry())
    async with served(api) as configuration:
        client = KubeClient(configuration, timeout_s=5, on_call=metrics.note_call)
        recorder = Recorder(client, "me", lambda: 0.0)
        performer = Performer(client, cache, gateways, recorder, metrics, lambda: made.leading)
        made = Stage(api, cache, gateways, metrics, performer, recorder)
        yield made
        await client.close()


def config_map(name: str = "settings", owner: str = "u1", **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": "ns",
            "labels": {names.LABEL_SERVICE: "chat"},
            "ownerReferences": [{"uid": owner}],
        },
        "data": data,
    }


async def test_what_was_applied_is_known_before_the_watch_tells(stage: Stage) -> None:
    outcome = await stage.perform(Apply(config_map(a="1")))
    assert outcome.result == "ok"
    assert stage.cache.children(KEY)["ConfigMap", "settings"]["data"] == {"a": "1"}


async def test_a_field_that_another_manager_took_is_taken_back_and_told(stage: Stage) -> None:
    stage.api.store(f"{MAPS}/settings", config_map(a="2"))
    stage.api.owned.add(f"{MAPS}/settings")
    outcome = await stage.perform(Apply(config_map(a="1")))
    assert outcome.result == "ok"
    assert stage.api.objects[f"{MAPS}/settings"]["data"] == {"a": "1"}
    assert stage.reasons() == ["FieldsTakenBack"]


async def test_an_object_of_somebody_else_is_left_alone(stage: Stage) -> None:
    theirs = stage.api.store(f"{MAPS}/settings", config_map(owner="other", a="theirs"))
    del theirs["metadata"]["labels"]
    outcome = await stage.perform(Apply(config_map(a="1")))
    assert [(each.kind, each.code, each.reason) for each in outcome.refused] == [
        ("ConfigMap", 409, "NotOurs")
    ]
    assert stage.api.objects[f"{MAPS}/settings"]["data"] == {"a": "theirs"}
    assert outcome.refused[0].message == "exists and is not this service's: rename one"


async def test_what_a_service_left_behind_may_be_deleted(stage: Stage) -> None:
    left = stage.api.store(f"{MAPS}/settings", config_map(a="left"))
    left["metadata"]["labels"] = names.labels("chat", "gateway")
    del left["metadata"]["ownerReferences"]
    outcome = await stage.perform(Apply(config_map(a="1")))
    assert [each.reason for each in outcome.refused] == ["NotOurs"]
    assert outcome.refused[0].message.endswith("rename one, or delete it")


async def test_a_secret_is_written_and_never_read(stage: Stage) -> None:
    secret = {**config_map("chat-internal"), "kind": "Secret"}
    assert (await stage.perform(Apply(secret))).result == "ok"
    assert [method for method, path in stage.api.calls if "secrets" in path] == ["PATCH"]


@pytest.mark.parametrize(("code", "reason"), [(403, "Forbidden"), (422, "Invalid")])
async def test_a_refusal_is_told_to_the_next_round_and_the_rest_is_done(
    stage: Stage, code: int, reason: str
) -> None:
    stage.api.refuse = lambda method, path: (
        (code, reason) if method == "PATCH" and path.endswith("/bad") else None
    )
    outcome = await stage.perform(Apply(config_map("bad")), Apply(config_map("good")))
    assert outcome.result == "refused"
    assert [(each.name, each.code, each.reason) for each in outcome.refused] == [
        ("bad", code, reason)
    ]
    assert f"{MAPS}/good" in stage.api.objects


@pytest.mark.parametrize("code", [429, 500, 503])
async def test_a_passing_failure_is_tried_again(stage: Stage, code: int) -> None:
    stage.api.refuse = lambda method, path: (code, "Busy") if "/bad" in path else None
    bad = PatchStatus("ModelService", "bad", {"phase": "Ready"})
    outcome = await stage.perform(bad, Apply(config_map("good")))
    assert outcome.result == "failed" and not outcome.refused
    assert f"{MAPS}/good" in stage.api.objects


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ('failed calling webhook "check.example": connection refused', "InternalError"),
        (
            "failed to create typed patch object (ns/bad; apps/v1, Kind=Deployment): "
            ".spec.template.spec.nodeSelectr: field not declared in schema",
            "Invalid",
        ),
    ],
)
async def test_an_object_that_the_server_fails_at_is_told(
    stage: Stage, told: str, reason: str
) -> None:
    stage.api.refuse = lambda method, path: (
        (500, "InternalError", told) if path.endswith("/bad") else None
    )
    outcome = await stage.perform(Apply(config_map("bad")))
    assert [(each.name, each.reason) for each in outcome.refused] == [("bad", reason)]
    assert told in outcome.refused[0].message


async def test_a_busy_server_refuses_no_object(stage: Stage) -> None:
    stage.api.refuse = lambda method, path: (429, "TooManyRequests")
    outcome = await stage.perform(Apply(config_map("bad")))
    assert outcome.result == "failed" and not outcome.refused


async def test_a_pod_that_was_replaced_meanwhile_is_not_marked(stage: Stage) -> None:
    path = "/api/v1/namespaces/ns/pods/w1"
    stage.api.store(path, {"metadata": {"name": "w1", "namespace": "ns"}, "spec": {}})
    outcome = await stage.perform(MarkVictim("w1", "another-uid", -5, 12.5))
    assert outcome.result == "failed", "the next round sees the new pod"
    assert "annotations" not in stage.api.objects[path]["metadata"]


async def test_a_victim_is_marked_and_unmarked(stage: Stage) -> None:
    path = "/api/v1/namespaces/ns/pods/w1"
    pod = stage.api.store(path, {"metadata": {"name": "w1", "namespace": "ns"}, "spec": {}})
    uid = pod["metadata"]["uid"]
    await stage.perform(MarkVictim("w1", uid, -5, 12.5))
    assert stage.api.objects[path]["metadata"]["annotations"] == {
        names.ANNOTATION_DELETION_COST: "-5",
        names.ANNOTATION_DRAIN_SINCE: "12.5",
    }
    await stage.perform(MarkVictim("w1", uid, None, None))
    assert stage.api.objects[path]["metadata"]["annotations"] == {}


async def test_the_users_count_is_written_with_its_note(stage: Stage) -> None:
    path = "/apis/baton.dev/v1alpha1/namespaces/ns/workerpools/chat-all"
    stage.api.store(path, {"metadata": {"name": "chat-all", "namespace": "ns"}, "spec": {}})
    await stage.perform(SetPoolReplicas("chat-all", 3))
    pool = stage.api.objects[path]
    assert pool["spec"]["replicas"] == 3
    assert pool["metadata"]["annotations"] == {names.ANNOTATION_POOL_REPLICAS: "3"}


async def test_deleting_what_is_gone_is_done(stage: Stage) -> None:
    assert (await stage.perform(Delete("ConfigMap", "gone", "u9"))).result == "ok"


async def test_a_drain_that_nobody_took_is_tried_again(stage: Stage) -> None:
    assert (await stage.perform(Drain("w1", 60, "why"))).result == "ok"
    stage.gateways.deaf = True
    assert (await stage.perform(Drain("w2", 60, "why"))).result == "failed"
    assert stage.gateways.drained == ["w1"]


async def test_what_another_wrote_into_a_status_is_taken_out(stage: Stage) -> None:
    path = "/apis/baton.dev/v1alpha1/namespaces/ns/modelservices/chat"
    by_hand = {"revision": {"current": "a", "failed": "b"}, "startup": {"loading": "1"}}
    stage.api.store(path, {"metadata": {"name": "chat", "namespace": "ns"}, "status": by_hand})
    wanted = {"phase": "Ready", "revision": {"current": "a"}}
    for _ in range(2):
        patch = PatchStatus(names.SERVICE_KIND, "chat", wanted)
        assert (await stage.perform(patch)).result == "ok"
        assert stage.api.objects[path]["status"] == wanted
    known = stage.cache.service(KEY)
    assert known is not None and known["status"] == wanted
    assert [method for method, _ in stage.api.calls] == ["PATCH"] * 3, "the second time just once"


async def test_a_status_is_written_and_its_conditions_are_measured(stage: Stage) -> None:
    ready = {"type": "Ready", "status": "False", "reason": "Starting"}
    path = "/apis/baton.dev/v1alpha1/namespaces/ns/modelservices/chat"
    stage.api.store(path, {"metadata": {"name": "chat", "namespace": "ns"}, "spec": {}})
    await stage.perform(PatchStatus(names.SERVICE_KIND, "chat", {"conditions": [ready]}))
    assert stage.api.objects[path]["status"] == {"conditions": [ready]}
    text = stage.metrics.render().decode()
    series = 'baton_condition{condition="Ready",namespace="ns",service="chat",status="%s"} %s'
    assert series % ("false", "1.0") in text and series % ("true", "0.0") in text
    stage.metrics.forget(KEY)
    assert 'service="chat"' not in stage.metrics.render().decode()


async def test_the_soonest_requeue_counts(stage: Stage) -> None:
    outcome = await stage.perform(Requeue(30), Requeue(5), Requeue(60), Emit("Normal", "A", "b"))
    assert outcome.again_s == 5 and stage.reasons() == ["A"]


async def test_nothing_is_done_without_the_lease(stage: Stage) -> None:
    stage.leading = False
    with pytest.raises(LeaseLostError):
        await stage.perform(Apply(config_map()))
    assert stage.api.calls == []


async def test_with_the_api_server_gone_the_round_ends_at_once(stage: Stage) -> None:
    async with served(KubeApi()) as gone:
        pass
    client = KubeClient(gone, timeout_s=5)
    recorder = Recorder(client, "me", lambda: 0.0)
    performer = Performer(client, Cache(), stage.gateways, recorder, stage.metrics, lambda: True)
    actions = [Apply(config_map(str(number))) for number in range(20)]
    outcome = await performer.perform(ABOUT, SEEN, actions)
    await client.close()
    assert len(outcome.problems) < len(actions) and outcome.result == "failed"


async def test_what_does_not_rely_on_each_other_is_done_at_the_same_time(stage: Stage) -> None:
    api = Meeting(MAX_AT_ONCE)
    async with served(api) as configuration:
        client = KubeClient(configuration, timeout_s=30)
        performer = Performer(
            client, Cache(), stage.gateways, stage.recorder, stage.metrics, lambda: True
        )
        actions = [Apply(config_map(str(number))) for number in range(3 * MAX_AT_ONCE)]
        assert (await performer.perform(ABOUT, SEEN, actions)).result == "ok"
        await client.close()
    assert api.most == MAX_AT_ONCE and len(api.objects) == len(actions)


async def test_pods_are_made_after_what_they_refer_to(stage: Stage) -> None:
    deployment = {**config_map("workers"), "kind": "Deployment", "apiVersion": "apps/v1"}
    await stage.perform(
        Apply(deployment, Emit("Normal", "Made", "told")),
        Emit("Normal", "Last", "told"),
        Apply(config_map(), Emit("Normal", "First", "told")),
    )
    writes = [path.rpartition("/")[2] for method, path in stage.api.calls if method == "PATCH"]
    assert writes == ["settings", "workers"]
    assert stage.reasons() == ["First", "Made", "Last"]


async def test_what_is_new_takes_one_call(stage: Stage) -> None:
    assert (await stage.perform(Apply(config_map()))).result == "ok"
    assert stage.api.calls == [("PATCH", f"{MAPS}/settings")]


async def test_an_own_child_that_lost_its_label_gets_it_back(stage: Stage) -> None:
    bare = stage.api.store(f"{MAPS}/settings", config_map(a="1"))
    bare["metadata"]["labels"] = {}
    assert (await stage.perform(Apply(config_map(a="2")))).result == "ok"
    again = stage.api.objects[f"{MAPS}/settings"]
    assert again["data"] == {"a": "2"} and again["metadata"]["labels"]


async def test_another_services_child_in_the_cache_is_left_alone(stage: Stage) -> None:
    seen = replace(SEEN, objects={("ConfigMap", "settings"): config_map(owner="before")})
    outcome = await stage.perform(Apply(config_map()), seen=seen)
    assert outcome.refused[0].reason == "NotOurs" and stage.api.calls == []
