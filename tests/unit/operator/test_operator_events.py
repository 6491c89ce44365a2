"""Events tell each thing once, count what repeats, and never flood."""

from __future__ import annotations

from collections.abc import AsyncIterator
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


@pytest.fixture
async def told() -> AsyncIterator[tuple[KubeApi, Recorder, Time]]:
    api, time = KubeApi(), Time()
    async with served(api) as configuration:
        client = KubeClient(configuration, timeout_s=5)
        yield api, Recorder(client, "operator-1", time), time
        await client.close()


def events(api: KubeApi) -> list[dict[str, Any]]:
    return [each for path, each in api.objects.items() if "/events/" in path]


async def test_the_same_again_is_counted(told: tuple[KubeApi, Recorder, Time]) -> None:
    api, recorder, time = told
    for _ in range(3):
        await recorder.emit(ABOUT, SCALED)
        time.now += 60
    [event] = events(api)
    assert event["count"] == 3
    assert event["involvedObject"]["uid"] == "u1" and event["reason"] == "Scaled"
    assert event["firstTimestamp"] < event["lastTimestamp"]


async def test_one_that_the_api_server_dropped_is_written_anew(
    told: tuple[KubeApi, Recorder, Time],
) -> None:
    api, recorder, _ = told
    await recorder.emit(ABOUT, SCALED)
    api.objects.clear()
    await recorder.emit(ABOUT, SCALED)
    [event] = events(api)
    assert event["count"] == 1


async def test_after_a_while_it_is_a_new_one(told: tuple[KubeApi, Recorder, Time]) -> None:
    api, recorder, time = told
    await recorder.emit(ABOUT, SCALED)
    time.now += SAME_FOR_S
    await recorder.emit(ABOUT, SCALED)
    assert [event["count"] for event in events(api)] == [1, 1]


async def test_a_service_that_says_too_much_is_held_to_a_rate(
    told: tuple[KubeApi, Recorder, Time],
) -> None:
    api, recorder, time = told
    for number in range(BURST + 20):
        await recorder.emit(ABOUT, Emit("Warning", "Noise", str(number)))
    assert len(events(api)) == BURST
    time.now += 2 * REFILL_S
    for number in range(5):
        await recorder.emit(ABOUT, Emit("Warning", "More", str(number)))
    assert len(events(api)) == BURST + 2


async def test_one_that_cannot_be_written_stops_nothing(
    told: tuple[KubeApi, Recorder, Time],
) -> None:
    api, recorder, _ = told
    api.refuse = lambda method, path: (403, "Forbidden")
    await recorder.emit(ABOUT, SCALED)
    api.refuse = lambda method, path: None
    await recorder.emit(ABOUT, SCALED)
    assert len(events(api)) == 1
