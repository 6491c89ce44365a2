"""Who goes when a pool gets smaller, and how: emptied first, and called back if need be."""

from __future__ import annotations

from typing import Any

from baton_operator import names
from baton_operator.actions import Drain, MarkVictim, Requeue, Scale, Undrain
from baton_operator.decide.rollout.surge import Size
from baton_operator.decide.rollout.victims import DRAINING_COST, EMPTY_COST, Clearing, resize
from baton_operator.decide.rollout.workloads import Workload
from baton_operator.seen import PodSeen, Signals, WorkerSignal
from fakes.settled_pair import decoders, settled_pair


def kinds(actions: list[Any], *wanted: type) -> list[Any]:
    return [each for each in actions if isinstance(each, wanted)]


def test_emptiest_worker_is_marked_then_drained_then_counted_off() -> None:
    world = settled_pair(1, 3)
    first, second, third = decoders(world)
    world.load = {first: 5, second: 1, third: 3}
    world.scale("dec", 2)

    assert [each.pod for each in kinds(world.round(), MarkVictim)] == [second]
    assert [each.worker for each in kinds(world.round(), Drain)] == [second]
    # It has a request left: nothing but waiting.
    assert kinds(world.round(), Scale, MarkVictim, Drain) == []
    assert kinds(world.actions(), Requeue)
    world.load[second] = 0
    assert [each.deletion_cost for each in kinds(world.round(), MarkVictim)] == [EMPTY_COST]
    assert [each.replicas for each in kinds(world.round(), Scale)] == [2]
    world.controllers()
    assert decoders(world) == [first, third]
    assert kinds(world.actions(), Scale, MarkVictim, Drain, Undrain) == []


def test_worker_that_does_not_get_empty_goes_when_its_time_is_over() -> None:
    world = settled_pair(1, 2)
    stays, goes = decoders(world)
    world.load = {stays: 9, goes: 8}
    world.scale("dec", 1)
    for _ in range(3):
        world.round()
    world.now_s += 119
    assert kinds(world.round(), Scale, MarkVictim) == []
    world.now_s += 1
    for _ in range(2):
        world.round()
    world.controllers()
    assert decoders(world) == [stays]


def test_pool_that_grows_again_calls_its_victim_back() -> None:
    world = settled_pair(1, 2)
    world.load = dict.fromkeys(decoders(world), 3)
    world.scale("dec", 1)
    for _ in range(2):
        world.round()
    (victim,) = world.drains
    world.scale("dec", 2)
    assert kinds(world.round(), Undrain, Scale) == [Undrain(victim)]
    assert kinds(world.round(), Undrain, Scale) == []
    assert victim not in world.drains
    world.settle()
    assert world.available()["dec"] == 2
    assert any(each.reason == "DrainUndone" for each in world.events)


def test_worker_is_undrained_even_if_no_gateway_says_that_it_drains() -> None:
    """One that was asked a moment ago may say so only later."""
    world = settled_pair(1, 2)
    world.scale("dec", 1)
    world.round()
    world.scale("dec", 2)
    (back,) = kinds(world.round(), Undrain)
    assert kinds(world.round(), Undrain) == []
    pod = world.store.objects["Pod", back.worker]
    assert names.ANNOTATION_DRAIN_SINCE not in pod["metadata"]["annotations"]


def test_gateway_that_forgot_is_asked_again() -> None:
    world = settled_pair(1, 2)
    world.load = dict.fromkeys(decoders(world), 3)
    world.scale("dec", 1)
    for _ in range(2):
        world.round()
    (victim,) = world.drains
    world.perform(Undrain(victim))
    world.now_s += 20
    again = kinds(world.actions(), Drain)
    assert [(each.worker, each.within_s) for each in again] == [(victim, 100.0)]


def test_worker_drained_by_somebody_else_is_left_alone() -> None:
    world = settled_pair(1, 2)
    world.drains.add(decoders(world)[0])
    assert kinds(world.actions(), Undrain, MarkVictim, Drain, Scale) == []


def test_worker_deleted_by_somebody_else_is_left_alone() -> None:
    world = settled_pair(1, 2)
    gone = decoders(world)[0]
    world.kill(world.store.objects["Pod", gone])
    world.scale("dec", 1)
    # The Deployment has not noticed yet: one fewer is what there is already.
    assert kinds(world.round(), MarkVictim, Drain) == []
    world.settle()
    assert len(decoders(world)) == 1


def test_starting_worker_goes_before_one_that_serves() -> None:
    world = settled_pair(1, 2)
    serving = set(decoders(world))
    world.scale("dec", 3)
    world.round()
    world.controllers()
    world.scale("dec", 2)
    world.settle()
    assert set(decoders(world)) == serving


def test_without_gateways_a_victim_gets_its_time() -> None:
    world = settled_pair(1, 2)
    world.gateways_answer = False
    world.scale("dec", 1)
    world.round()
    world.now_s += 60
    assert kinds(world.round(), Scale) == []
    world.now_s += 60
    for _ in range(2):
        world.round()
    world.controllers()
    assert len(decoders(world)) == 1


def group(index: int, **more: Any) -> PodSeen:
    name = f"demo-dec-r1-{index}"
    fields: dict[str, Any] = {"phase": "Running", "ready": True, "node": f"n{index}"}
    return PodSeen(name, f"uid-{index}", "worker", group_index=index, **(fields | more))


def test_of_a_leader_worker_set_the_highest_groups_go() -> None:
    """Its controller removes no other, however busy they are."""
    busy = Signals({f"demo-dec-r1-{n}": WorkerSignal(num_running=n) for n in range(3)})
    pods = tuple(group(index) for index in (2, 1, 0))
    workload = Workload("dec", "decode", "r1", "LeaderWorkerSet", "demo-dec-r1", "u", 3, pods)
    found = resize(workload, Size(keep=1, replicas=3), Clearing(busy, 100.0, 30.0))
    assert [each.pod for each in kinds(found, MarkVictim)] == ["demo-dec-r1-2", "demo-dec-r1-1"]

    # The lower of the two is empty first: it has to wait for the higher.
    marks = {"drain_since": 90.0, "deletion_cost": EMPTY_COST}
    half = (
        group(2, drain_since=90.0, deletion_cost=DRAINING_COST),
        group(1, **marks),
        group(0),
    )
    draining = Signals(
        {
            "demo-dec-r1-2": WorkerSignal(True, num_running=1),
            "demo-dec-r1-1": WorkerSignal(True),
            "demo-dec-r1-0": WorkerSignal(),
        }
    )
    workload = Workload("dec", "decode", "r1", "LeaderWorkerSet", "demo-dec-r1", "u", 3, half)
    assert resize(workload, Size(1, 3), Clearing(draining, 100.0, 30.0)) == []
    # Out of time, both go at once.
    late = resize(workload, Size(1, 3), Clearing(draining, 120.0, 30.0))
    assert [type(each) for each in late] == [MarkVictim]
    done = (group(2, **marks), group(1, **marks), group(0))
    workload = Workload("dec", "decode", "r1", "LeaderWorkerSet", "demo-dec-r1", "u", 3, done)
    late = resize(workload, Size(1, 3), Clearing(draining, 120.0, 30.0))
    assert [each.replicas for each in kinds(late, Scale)] == [1]
