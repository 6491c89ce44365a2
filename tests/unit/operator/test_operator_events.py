"""Events tell each thing once, count what repeats, and never flood."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from baton_operator.actions import Emit
from baton_operator.kube.client import KubeClient
from baton_operator.kube.recorder import BURST, REFILL_S, SAME_FOR_S, Recorder
from fakes.kube_api import KubeApi, served

ABOUT = {
    "metadata": {"name": "chat", "namespace": "ns", "uid": "u1", "resourceVersion": "7"},
}
SCALED = Emit("Normal", "Scaled", "decode from 1 to 3")


class Time:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Story:
    api: KubeApi
    recorder: Recorder
    time: Time

    async def tell(self, *events: Emit) -> None:
        for each in events:
            self.recorder.emit(ABOUT, each)
        await self.recorder.flush()


@pytest.fixture
async def story() -> AsyncIterator[Story]:
    api, time = KubeApi(), Time()
    async with served(api) as configuration:
        client = KubeClient(configuration, timeout_s=5)
        yield Story(api, Recorder(client, "operator-1", time), time)
        await client.close()


def events(api: KubeApi) -> list[dict[str, Any]]:
    return [each for path, each in api.objects.items() if "/events/" in path]


async def test_the_same_again_is_counted(story: Story) -> None:
    for _ in range(3):
        await story.tell(SCALED)
        story.time.now += 60
    [event] = events(story.api)
    assert event["count"] == 3
    assert event["involvedObject"]["uid"] == "u1" and event["reason"] == "Scaled"
    assert event["firstTimestamp"] < event["lastTimestamp"]


async def test_one_that_the_api_server_dropped_is_written_anew(story: Story) -> None:
    await story.tell(SCALED)
    story.api.objects.clear()
    await story.tell(SCALED)
    [event] = events(story.api)
    assert event["count"] == 1


async def test_after_a_while_it_is_a_new_one(story: Story) -> None:
    await story.tell(SCALED)
    story.time.now += SAME_FOR_S
    await story.tell(SCALED)
    assert [event["count"] for event in events(story.api)] == [1, 1]


async def test_a_service_that_says_too_much_is_held_to_a_rate(story: Story) -> None:
    await story.tell(*(Emit("Warning", "Noise", str(number)) for number in range(BURST + 20)))
    assert len(events(story.api)) == BURST
    story.time.now += 2 * REFILL_S
    await story.tell(*(Emit("Warning", "More", str(number)) for number in range(5)))
    assert len(events(story.api)) == BURST + 2


async def test_what_is_told_of_a_service_is_written_in_that_order(story: Story) -> None:
    await story.tell(*(Emit("Normal", "Step", str(number)) for number in range(10)))
    assert [event["message"] for event in events(story.api)] == [str(n) for n in range(10)]


async def test_one_that_cannot_be_written_stops_nothing(story: Story) -> None:
    story.api.refuse = lambda method, path: (403, "Forbidden")
    await story.tell(SCALED)
    story.api.refuse = lambda method, path: None
    await story.tell(SCALED)
    assert len(events(story.api)) == 1


async def test_in_a_namespace_that_ends_the_rest_is_not_tried(story: Story) -> None:
    story.api.ending = True
    await story.tell(SCALED, Emit("Normal", "More", "a"), Emit("Normal", "More", "b"))
    assert len(story.api.calls) == 1


async def test_nobody_waits_for_an_event_and_what_is_not_written_ends_with_the_process(
    story: Story,
) -> None:
    story.recorder.emit(ABOUT, SCALED)
    assert story.api.calls == []
    await story.recorder.close()
    await story.recorder.flush()
    assert events(story.api) == []
