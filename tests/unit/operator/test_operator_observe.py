"""What a round is told: pods that may download are asked, what is not watched is left out."""

from __future__ import annotations

from typing import Any

import pytest

from baton_operator import kinds, names
from baton_operator.kube.client import KubeClient
from baton_operator.kube.object_cache import Cache, Key
from baton_operator.rounds.observe import LEVEL_LABEL, Observer
from baton_operator.seen import PodSeen, Progress
from fakes.kube_api import KubeApi
from fakes.silent_gateways import Silence

KEY = Key("ns", "chat")
SPEC = {"model": {"source": "example/tiny"}, "pools": [{"name": "all", "role": "any"}]}


class Pods(Silence):
    """Each that is asked is downloading."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def progress(self, pod: PodSeen) -> Progress | None:
        self.asked.append(pod.name)
        return Progress("downloading", 1, 2)


def put(cache: Cache, kind: str, name: str, **more: Any) -> None:
    labels = {names.LABEL_SERVICE: "chat", **more.pop("labels", {})}
    meta = {"name": name, "namespace": "ns", "uid": f"{kind}/{name}", "labels": labels}
    cache.put(kind, {"kind": kind, "metadata": {**meta, "generation": 1}, "spec": {}, **more})


def put_pod(cache: Cache, name: str, component: str, phase: str, ready: bool) -> None:
    status = {
        "phase": phase,
        "podIP": "10.0.0.1",
        "conditions": [{"type": "Ready", "status": str(ready)}],
    }
    put(cache, "Pod", name, labels={names.LABEL_COMPONENT: component}, status=status)


@pytest.fixture
def cache() -> Cache:
    cache = Cache()
    put(cache, names.SERVICE_KIND, "chat", spec=SPEC)
    return cache


@pytest.fixture
def api() -> KubeApi:
    return KubeApi()


async def test_workers_that_start_and_the_fetch_pod_are_asked_how_far_they_are(
    cache: Cache, client: KubeClient
) -> None:
    put_pod(cache, "starts", "worker", "Running", ready=False)
    put_pod(cache, "serves", "worker", "Running", ready=True)
    put_pod(cache, "gateway", "gateway", "Running", ready=False)
    put_pod(cache, "fetches", "fetch", "Running", ready=True)
    put_pod(cache, "fetched", "fetch", "Succeeded", ready=False)
    pods = Pods()
    observer = Observer(cache, client, pods, frozenset, frozenset, lambda: 0.0)
    seen = await observer.observe(KEY, (), False)
    assert seen is not None and set(seen.progress) == {"starts", "fetches"} == set(pods.asked)


async def test_what_was_known_of_a_kind_before_it_could_not_be_watched_is_not_believed(
    cache: Cache, client: KubeClient
) -> None:
    put(cache, "NetworkPolicy", "chat")
    put(cache, "Service", "chat")
    unwatched = frozenset({"NetworkPolicy"})
    observer = Observer(cache, client, Pods(), frozenset, lambda: unwatched, lambda: 0.0)
    seen = await observer.observe(KEY, (), False)
    assert seen is not None and set(seen.objects) == {("Service", "chat")}
    assert seen.unwatched == unwatched and kinds.by_name("NetworkPolicy") in kinds.WATCHED


@pytest.mark.parametrize(
    ("transport", "level", "asked"),
    [
        ({"profile": "tcp"}, "privileged", 0),
        ({"profile": "rdma", "rdma": {"resourceName": "rdma/hca"}}, "restricted", 1),
    ],
)
async def test_the_namespace_is_asked_for_what_it_allows_where_that_matters(
    cache: Cache, client: KubeClient, api: KubeApi, transport: Any, level: str, asked: int
) -> None:
    """Once, and remembered."""
    path, labels = "/api/v1/namespaces/ns", {LEVEL_LABEL: "restricted"}
    api.store(path, {"metadata": {"name": "ns", "labels": labels}})
    put(cache, names.SERVICE_KIND, "chat", spec={**SPEC, "transport": transport})
    observer = Observer(cache, client, Pods(), frozenset, frozenset, lambda: 0.0)
    for _ in range(2):
        seen = await observer.observe(KEY, (), False)
        assert seen is not None and seen.pod_security == level
    assert api.calls.count(("GET", path)) == asked
