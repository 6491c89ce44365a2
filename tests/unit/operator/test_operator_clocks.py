"""Operators whose clocks differ take over from each other, and nobody waits for the difference."""

from __future__ import annotations

import pytest

from fakes.kube_world import KubeWorld
from fakes.service_specs import pair
from fakes.settled_pair import decoders, settled_pair

HOUR_S = 3600.0
DRAIN_S = 120.0


def stalled(world: KubeWorld) -> tuple[str, str]:
    found = next(each for each in world.status["conditions"] if each["type"] == "Stalled")
    return found["status"], found["reason"]


def pass_time(world: KubeWorld, seconds: float) -> None:
    for _ in range(int(seconds)):
        world.now_s += 1
        world.round()
        world.controllers()


@pytest.mark.parametrize("skew_s", [-HOUR_S, HOUR_S])
def test_a_busy_victim_gets_its_time_at_most_and_nobody_else_goes(skew_s: float) -> None:
    world = settled_pair(1, 2)
    stays, goes = decoders(world)
    world.load = {stays: 9, goes: 8}
    world.scale("dec", 1)
    pass_time(world, 10)
    world.now_s += skew_s
    pass_time(world, DRAIN_S - 10)
    assert stays in decoders(world)
    pass_time(world, 20)
    assert decoders(world) == [stays]


def test_a_rollout_that_hangs_is_noticed_although_the_clock_was_put_back() -> None:
    world = settled_pair(1, 1)
    world.broken_images = {"baton:2"}
    world.edit({**pair(1, 1, "baton:2"), "rollout": {"progressDeadlineSeconds": 60}})
    pass_time(world, 10)
    world.now_s -= HOUR_S
    pass_time(world, 50)
    assert stalled(world) == ("False", "NotStalled")
    pass_time(world, 20)
    assert stalled(world) == ("True", "ProgressDeadlineExceeded")


def test_a_rollout_that_a_fast_clock_gave_up_goes_on_with_the_next_worker() -> None:
    world = settled_pair(1, 1)
    world.edit({**pair(1, 1, "baton:2"), "rollout": {"progressDeadlineSeconds": 60}})
    pass_time(world, 2)
    world.now_s += HOUR_S
    pass_time(world, 2)
    assert stalled(world) == ("True", "ProgressDeadlineExceeded")
    world.settle()
    assert stalled(world) == ("False", "NotStalled")
    assert world.status["revision"]["current"] and "updating" not in world.status["revision"]
