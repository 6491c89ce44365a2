"""A WorkerPool's count belongs to whoever wrote it last: the spec, kubectl scale, an HPA."""

from __future__ import annotations

from baton_operator import names
from baton_operator.actions import Apply, SetPoolReplicas
from fakes.kube_world import KubeWorld
from fakes.service_specs import pair


def count(world: KubeWorld) -> int:
    replicas: int = world.store.objects[names.POOL_KIND, "demo-dec"]["spec"]["replicas"]
    return replicas


def test_new_pool_gets_the_count_of_the_spec() -> None:
    world = KubeWorld(pair(1, 3))
    world.settle()
    assert count(world) == 3


def test_count_of_kubectl_scale_outlives_every_other_change() -> None:
    world = KubeWorld(pair(1, 3))
    world.settle()
    world.scale("dec", 5)
    world.edit(pair(2, 3, "baton:2"))
    world.settle()
    assert count(world) == 5
    assert world.available() == {"pre": 2, "dec": 5}
    # Not even a repair of the WorkerPool itself takes it back.
    world.store.merge((names.POOL_KIND, "demo-dec"), {"metadata": {"labels": {"a": "b"}}})
    world.store.merge(
        (names.POOL_KIND, "demo-dec"), {"metadata": {"labels": {names.LABEL_ROLE: "prefill"}}}
    )
    assert [type(each) for each in world.round()][:1] == [Apply]
    assert count(world) == 5


def test_count_that_the_user_changes_wins() -> None:
    world = KubeWorld(pair(1, 3))
    world.settle()
    world.scale("dec", 5)
    world.settle()
    world.edit(pair(1, 2))
    assert [each for each in world.round() if isinstance(each, SetPoolReplicas)] == [
        SetPoolReplicas("demo-dec", 2)
    ]
    world.settle()
    assert count(world) == 2
    assert world.available() == {"pre": 1, "dec": 2}


def test_deleted_pool_comes_back_with_the_count_of_the_spec() -> None:
    world = KubeWorld(pair(1, 2))
    world.settle()
    world.scale("dec", 4)
    world.settle()
    world.store.delete((names.POOL_KIND, "demo-dec"))
    world.settle()
    assert count(world) == 2


def test_status_serves_the_scale_subresource() -> None:
    world = KubeWorld(pair(1, 3))
    world.settle()
    status = world.store.objects[names.POOL_KIND, "demo-dec"]["status"]
    assert (status["replicas"], status["readyReplicas"]) == (3, 3)
    assert status["selector"] == names.selector_text(names.pool_selector("demo", "dec"))
    assert {each["type"]: each["status"] for each in status["conditions"]} == {
        **{"Ready": "True", "Progressing": "False", "Stalled": "False"}
    }
