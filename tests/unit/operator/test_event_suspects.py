"""Whose events are asked for, and what of them still holds."""

from __future__ import annotations

from typing import Any

import pytest

from baton_operator import names
from baton_operator.decide.suspects import STATEFUL_SET, Suspect, suspects
from baton_operator.decide.text import time_text
from fakes.kube_world import NAME, KubeWorld
from fakes.service_specs import pool

REFUSED = 'create Pod failed: pods "x" is forbidden: exceeded quota: small'


def wide(*missing: str) -> KubeWorld:
    """A service whose decode workers are two groups of three pods, without these of their pods."""
    ranks = {"parallelism": {"tensor": 3, "nodes": 3}}
    pools = [pool("pre", "prefill", 1), pool("dec", "decode", 2, **ranks)]
    world = KubeWorld({"image": "baton:1", "model": {"source": "baton-tiny"}, "pools": pools})
    world.kinds = frozenset({"LeaderWorkerSet"})
    world.settle()
    [found] = world.store.of_kind("LeaderWorkerSet")
    for each in missing:
        del world.store.objects["Pod", f"{found['metadata']['name']}-{each}"]
    return world


def stateful_sets(world: KubeWorld) -> list[str]:
    """Those that are asked about, without what names have in common."""
    prefix = f"{names.worker_pool(NAME, 'dec')}-"
    found = [each for each in suspects(world.seen()) if each.kind == STATEFUL_SET]
    return [each.name.removeprefix(prefix).partition("-")[2] for each in found]


def refusal(at_s: float, kind: str = "Warning", reason: str = "FailedCreate") -> dict[str, Any]:
    at = time_text(at_s)
    return {
        "metadata": {"creationTimestamp": at},
        "lastTimestamp": at,
        "type": kind,
        "reason": reason,
        "message": REFUSED,
    }


def made(at_s: float) -> dict[str, Any]:
    return refusal(at_s, "Normal", "SuccessfulCreate")


def test_nobody_is_suspected_where_all_pods_are_there() -> None:
    assert suspects(wide().seen()) == []


@pytest.mark.parametrize(
    ("missing", "suspect"),
    [
        # A leader is missing: the set of the leaders. Else that of the group that lacks a pod.
        (["0", "0-1", "0-2", "1", "1-1", "1-2"], ""),
        (["0-1", "0-2", "1", "1-1", "1-2"], ""),
        (["0-2", "1-1", "1-2"], "0"),
        (["1-1"], "1"),
    ],
)
def test_the_set_that_should_have_made_the_missing_pod_is_asked_about(
    missing: list[str], suspect: str
) -> None:
    """One and no more: what refused it refuses the others, too."""
    assert stateful_sets(wide(*missing)) == [suspect]


@pytest.mark.parametrize("missing", ["0", "1-1"])
def test_events_of_a_former_set_of_the_same_name_are_not_told(missing: str) -> None:
    """Its uid is not known, but its LeaderWorkerSet's time is: it came later."""
    world = wide(missing)
    [owner] = world.store.of_kind("LeaderWorkerSet")
    owner["metadata"]["creationTimestamp"] = time_text(100)
    [found] = [each for each in suspects(world.seen()) if each.kind == STATEFUL_SET]
    events = [refusal(99), refusal(100), refusal(101)]
    assert [each.last_s for each in found.warnings(events)] == [100, 101]
    assert found.warnings([refusal(10), made(11)]) == ()


def test_its_events_are_found_by_name() -> None:
    """It is not watched, so its uid is not known."""
    fields = Suspect(STATEFUL_SET, "ns", "chat-decode-r1").fields
    assert fields == "involvedObject.kind=StatefulSet,involvedObject.name=chat-decode-r1"
    fields = Suspect("Pod", "ns", "a", "uid-1").fields
    assert fields == "involvedObject.uid=uid-1,type=Warning"


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([refusal(10)], [10]),
        ([made(5), refusal(10)], [10]),
        # One of several pods of the same second.
        ([refusal(10), made(10)], [10]),
        # The quota was raised, and what is missing now is missing for another reason.
        ([refusal(10), made(11)], []),
        ([refusal(10), made(11), refusal(12)], [12]),
        ([made(1)], []),
    ],
)
def test_a_refusal_is_over_when_a_later_pod_was_made(
    events: list[dict[str, Any]], told: list[float]
) -> None:
    found = Suspect(STATEFUL_SET, "ns", "chat-decode-r1").warnings(events)
    assert [each.last_s for each in found] == told
    assert {(each.reason, each.message) for each in found} <= {("FailedCreate", REFUSED)}
