"""What the operator may not watch it does not decide by, and says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aiohttp import web

from baton_operator import kinds, names
from baton_operator.actions import Action, Apply, Delete, PatchStatus
from baton_operator.decide.reconcile import reconcile
from baton_operator.kube.client import ApiError, KubeClient
from baton_operator.kube.rights import REVIEW, unwatchable
from fakes.kube_api import KubeApi, served
from fakes.kube_world import KubeWorld
from fakes.service_specs import pair

ASKED = (kinds.SERVICE, kinds.POD)


def decided(world: KubeWorld, *unwatched: str) -> list[Action]:
    seen = world.seen()
    objects = {at: each for at, each in seen.objects.items() if at[0] not in unwatched}
    pods = () if "Pod" in unwatched else seen.pods
    blind = replace(seen, objects=objects, pods=pods, unwatched=frozenset(unwatched))
    return reconcile(blind, world.installation)


def conditions(actions: list[Action]) -> dict[str, tuple[str, str, str]]:
    [status] = [
        each.status
        for each in actions
        if isinstance(each, PatchStatus) and each.kind == names.SERVICE_KIND
    ]
    found: dict[str, tuple[str, str, str]] = {
        each["type"]: (each["status"], each["reason"], each["message"])
        for each in status["conditions"]
    }
    return found


@pytest.fixture
def world() -> KubeWorld:
    world = KubeWorld(pair(1, 1))
    world.settle()
    return world


@pytest.mark.parametrize("kind", ["Pod", "Deployment", "WorkerPool", "ConfigMap"])
def test_without_what_sizes_are_read_off_all_stays_as_it_is(world: KubeWorld, kind: str) -> None:
    world.edit({"image": "another:2"})
    before = world.status
    actions = decided(world, kind)
    found = conditions(actions)
    assert found["Stalled"][:2] == ("True", "RightsMissing")
    assert kinds.by_name(kind).plural in found["Stalled"][2]
    assert found["Ready"][:2] == ("Unknown", "RightsMissing")
    assert not [each for each in actions if isinstance(each, Apply | Delete)]
    [written] = [each.status for each in actions if isinstance(each, PatchStatus)]
    assert written["revision"] == before["revision"] and written["pools"] == before["pools"]


def test_any_other_kind_is_left_alone_and_the_rest_goes_on(world: KubeWorld) -> None:
    world.edit({"image": "another:2"})
    actions = decided(world, "NetworkPolicy")
    found = conditions(actions)
    assert found["Degraded"][:2] == ("True", "RightsMissing")
    assert "networkpolicies" in found["Degraded"][2]
    assert found["Stalled"][0] == "False" and found["Ready"][0] == "True"
    applied = {each.manifest["kind"] for each in actions if isinstance(each, Apply)}
    assert "Deployment" in applied and "NetworkPolicy" not in applied
    assert not [each for each in actions if isinstance(each, Delete)]


def test_a_kind_that_the_service_does_not_want_is_not_missed(world: KubeWorld) -> None:
    assert decided(world, "Ingress") == decided(world)


class Authorizer(KubeApi):
    """Says no to some (verb, plural)."""

    def __init__(self) -> None:
        super().__init__()
        self.denied: set[tuple[str, str]] = set()
        self.namespaces: set[str | None] = set()

    async def answer(self, request: web.Request) -> web.Response:
        if self.refuse(request.method, request.path):
            return await super().answer(request)
        assert (request.method, request.path) == ("POST", REVIEW.path(None))
        body = await request.json()
        asked = body["spec"]["resourceAttributes"]
        self.namespaces.add(asked.get("namespace"))
        allowed = (asked["verb"], asked["resource"]) not in self.denied
        return web.json_response({**body, "status": {"allowed": allowed}}, status=201)


@pytest.fixture
async def api() -> AsyncIterator[tuple[Authorizer, KubeClient]]:
    api = Authorizer()
    async with served(api) as configuration:
        client = KubeClient(configuration, timeout_s=5)
        yield api, client
        await client.close()


@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_to_watch_takes_both_rights(api: tuple[Authorizer, KubeClient], verb: str) -> None:
    authorizer, client = api
    assert await unwatchable(client, "ns", ASKED) == frozenset()
    authorizer.denied = {(verb, "pods")}
    assert await unwatchable(client, "ns", ASKED) == {kinds.POD}
    assert await unwatchable(client, None, ASKED) == {kinds.POD}
    assert authorizer.namespaces == {"ns", None}


async def test_where_rights_may_not_be_asked_for_they_are_tried(
    api: tuple[Authorizer, KubeClient],
) -> None:
    authorizer, client = api
    authorizer.refuse = lambda method, path: (403, "Forbidden")
    assert await unwatchable(client, "ns", ASKED) == frozenset()
    authorizer.refuse = lambda method, path: (503, "Busy")
    with pytest.raises(ApiError):
        await unwatchable(client, "ns", ASKED)
