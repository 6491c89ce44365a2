"""What the watches tell becomes rounds, and what they miss is found by listing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from baton_operator import kinds, names
from baton_operator.kinds import Kind
from baton_operator.kube.client import KubeClient
from baton_operator.kube.intake import Intake
from baton_operator.kube.kopf_watch import Notice, Type
from baton_operator.kube.object_cache import Cache, Key
from fakes.kube_api import KubeApi, served
from fakes.until import until

KEY = Key("ns", "chat")
DEPLOYMENT = kinds.by_name("Deployment")
PATH = "/apis/apps/v1/namespaces/ns/deployments"


@dataclass
class World:
    api: KubeApi
    cache: Cache
    intake: Intake
    rounds: list[tuple[Key, bool]] = field(default_factory=list)
    complete: int = 0

    def add(self, key: Key, *, urgent: bool = False) -> None:
        self.rounds.append((key, urgent))

    def tell(self, type: Type, manifest: dict[str, Any]) -> None:
        self.intake.take(Notice(type, manifest["kind"], manifest))

    def note_complete(self) -> None:
        self.complete += 1


@pytest.fixture
async def world() -> AsyncIterator[World]:
    api, cache = KubeApi(), Cache()
    async with served(api) as configuration:
        client = KubeClient(configuration, timeout_s=5)
        intake = Intake(
            cache, client, "ns", lambda key, urgent=False: made.add(key, urgent=urgent), 3600
        )
        made = World(api, cache, intake)
        yield made
        await client.close()


def thing(kind: Kind, name: str, uid: str = "u1", version: int = 1, **meta: Any) -> dict[str, Any]:
    labels = {} if kind == kinds.SERVICE else {names.LABEL_SERVICE: "chat"}
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": uid,
            "resourceVersion": str(version),
            "labels": labels,
            **meta,
        },
        "spec": {},
    }


def test_what_is_known_fills_the_cache_and_begins_nothing(world: World) -> None:
    world.tell("known", thing(DEPLOYMENT, "d"))
    assert world.cache.children(KEY) and world.rounds == []


@pytest.mark.parametrize("type", ["listed", "changed", "deleted"])
def test_a_child_that_changed_begins_a_round(world: World, type: Type) -> None:
    world.tell("known", thing(DEPLOYMENT, "d"))
    world.tell(type, thing(DEPLOYMENT, "d", version=2))
    assert world.rounds == [(KEY, False)]
    assert bool(world.cache.children(KEY)) == (type != "deleted")


def test_a_service_begins_a_round_when_its_user_changed_it_and_not_when_we_did(
    world: World,
) -> None:
    world.tell("changed", thing(kinds.SERVICE, "chat", version=1, generation=1))
    assert world.rounds == [(KEY, True)]
    world.tell("changed", thing(kinds.SERVICE, "chat", version=2, generation=1))
    assert world.rounds == [(KEY, True)], "a status was written"
    world.tell("changed", thing(kinds.SERVICE, "chat", version=3, generation=2))
    assert world.rounds == [(KEY, True)] * 2


def test_the_same_service_is_looked_at_when_the_watch_begins_anew(world: World) -> None:
    world.tell("listed", thing(kinds.SERVICE, "chat", generation=1))
    world.intake.watch_begins()
    world.tell("listed", thing(kinds.SERVICE, "chat", generation=1))
    assert len(world.rounds) == 2


async def test_what_was_deleted_unseen_is_found_when_the_watch_lists_again(world: World) -> None:
    stays = world.api.store(f"{PATH}/stays", thing(DEPLOYMENT, "stays", uid="u1"))
    world.tell("listed", stays)
    world.tell("listed", thing(DEPLOYMENT, "gone", uid="u2"))
    repairing = asyncio.create_task(
        world.intake.keep_repaired(lambda: [DEPLOYMENT], world.note_complete)
    )
    await until(lambda: world.complete == 1)
    assert {name for _, name in world.cache.children(KEY)} == {"stays"}
    before = len(world.rounds)
    world.tell("known", thing(DEPLOYMENT, "later", uid="u3"))
    # The watch of the kind lists again: the second time that it lists this one.
    world.tell("listed", stays)
    await until(lambda: world.complete == 2)
    assert {name for _, name in world.cache.children(KEY)} == {"stays"}
    assert world.rounds[before:] == [(KEY, False)] * 2, "for the listing and for the deletion"
    repairing.cancel()
    await asyncio.gather(repairing, return_exceptions=True)


async def test_what_is_listed_is_known_as_the_watch_told_of_it(world: World) -> None:
    """Else all objects of all services would look changed, and be written again."""
    told = world.api.store(f"{PATH}/d", thing(DEPLOYMENT, "d"))
    world.tell("listed", told)
    repairing = asyncio.create_task(
        world.intake.keep_repaired(lambda: [DEPLOYMENT], world.note_complete)
    )
    await until(lambda: world.complete == 1)
    assert list(world.cache.children(KEY).values()) == [told]
    repairing.cancel()
    await asyncio.gather(repairing, return_exceptions=True)


async def test_a_listing_that_fails_removes_nothing(world: World) -> None:
    world.tell("listed", thing(DEPLOYMENT, "d"))
    world.api.refuse = lambda method, path: (503, "ServiceUnavailable")
    repairing = asyncio.create_task(
        world.intake.keep_repaired(lambda: [DEPLOYMENT], world.note_complete)
    )
    await until(lambda: world.api.calls)
    await asyncio.sleep(0.05)
    assert world.cache.children(KEY) and world.complete == 0
    repairing.cancel()
    await asyncio.gather(repairing, return_exceptions=True)
