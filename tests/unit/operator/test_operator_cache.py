"""The cache holds the newest state of what exists, whatever order it hears of it in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton_operator import names
from baton_operator.kube.object_cache import Cache, Key

KEY = Key("ns", "chat")


def thing(
    kind: str = "Deployment", name: str = "d", uid: str = "u1", version: int = 1, **more: Any
) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "name": name,
        "namespace": "ns",
        "uid": uid,
        "resourceVersion": str(version),
        "managedFields": [{"manager": "someone"}],
    }
    if kind != names.SERVICE_KIND:
        meta["labels"] = {names.LABEL_SERVICE: "chat", names.LABEL_COMPONENT: "worker"}
    return {"kind": kind, "metadata": meta, "spec": {}, **more}


def test_children_are_found_by_the_service_that_their_label_names() -> None:
    cache = Cache()
    assert cache.put("Deployment", thing()) == KEY
    assert list(cache.children(KEY)) == [("Deployment", "d")]
    assert cache.children(Key("ns", "other")) == {}


def test_a_service_is_its_own() -> None:
    cache = Cache()
    assert cache.put(names.SERVICE_KIND, thing(names.SERVICE_KIND, "chat")) == KEY
    assert cache.service(KEY) is not None
    assert cache.remove(names.SERVICE_KIND, "u1", 2) == KEY
    assert cache.service(KEY) is None


def test_an_older_state_does_not_replace_a_newer_one() -> None:
    cache = Cache()
    cache.put("Deployment", thing(version=10, status={"replicas": 2}))
    cache.put("Deployment", thing(version=9, status={"replicas": 1}))
    assert cache.children(KEY)["Deployment", "d"]["status"] == {"replicas": 2}


def test_the_answer_to_a_write_does_not_bring_back_what_was_deleted() -> None:
    cache = Cache()
    cache.put("Deployment", thing(version=1))
    cache.remove("Deployment", "u1", 3)
    cache.put("Deployment", thing(version=2))
    assert cache.children(KEY) == {}


def test_one_that_gets_its_label_back_is_seen_again() -> None:
    cache = Cache()
    cache.put("Deployment", thing(version=1))
    assert cache.remove("Deployment", "u1", 2) == KEY, "what a watch by label says of it"
    cache.put("Deployment", thing(version=1))
    assert cache.children(KEY) == {}
    assert cache.put("Deployment", thing(version=3)) == KEY
    assert list(cache.children(KEY)) == [("Deployment", "d")]


def test_one_that_has_its_label_back_is_not_lost_to_the_late_notice_that_it_went() -> None:
    cache = Cache()
    cache.put("Deployment", thing(version=1))
    cache.put("Deployment", thing(version=3))
    assert cache.remove("Deployment", "u1", 2) == KEY
    assert list(cache.children(KEY)) == [("Deployment", "d")]


def test_what_a_listing_missed_is_seen_again_when_it_is_back() -> None:
    cache = Cache()
    cache.put("Deployment", thing(version=1))
    assert cache.keep_only("Deployment", [], cache.versions("Deployment")) == {KEY}
    assert cache.children(KEY) == {}
    assert cache.put("Deployment", thing(version=3)) == KEY
    assert list(cache.children(KEY)) == [("Deployment", "d")]


def test_a_listing_does_not_remove_what_changed_while_it_was_under_way() -> None:
    cache = Cache()
    cache.put("Deployment", thing(version=1))
    before = cache.versions("Deployment")
    cache.remove("Deployment", "u1", 2)
    cache.put("Deployment", thing(version=3))
    assert cache.keep_only("Deployment", [], before) == set()
    assert list(cache.children(KEY)) == [("Deployment", "d")]


def test_a_late_answer_does_not_move_one_back_to_its_former_service() -> None:
    cache = Cache()
    moved = thing(version=2)
    moved["metadata"]["labels"][names.LABEL_SERVICE] = "other"
    cache.put("Deployment", moved)
    assert cache.put("Deployment", thing(version=1)) == Key("ns", "other")
    assert cache.children(KEY) == {}


def test_one_that_cannot_be_read_is_told_of_once_and_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = Cache()
    bad = thing("Pod", "evil", uid="u2")
    del bad["spec"]
    for _ in range(3):
        assert cache.put("Pod", bad) is None
    cache.put("Pod", thing("Pod", "good"))
    assert [pod.name for pod in cache.pods(KEY)] == ["good"]
    assert [each.message.split()[0] for each in caplog.records] == ["object_not_read"]


def test_a_successor_of_the_same_name_outlives_its_predecessors_deletion() -> None:
    cache = Cache()
    cache.put("Deployment", thing(uid="old", version=1))
    cache.put("Deployment", thing(uid="new", version=5))
    assert cache.children(KEY)["Deployment", "d"]["metadata"]["uid"] == "new"
    cache.remove("Deployment", "old", 6)
    assert cache.children(KEY)["Deployment", "d"]["metadata"]["uid"] == "new"


def test_one_whose_label_was_taken_away_is_nobodys() -> None:
    cache = Cache()
    cache.put("Deployment", thing(version=1))
    without = thing(version=2)
    del without["metadata"]["labels"]
    assert cache.put("Deployment", without) == KEY, "its former service has to look"
    assert cache.children(KEY) == {}


def test_a_listing_removes_what_is_missing_from_it_but_not_what_came_since() -> None:
    cache = Cache()
    cache.put("Deployment", thing(uid="stays"))
    cache.put("Deployment", thing(name="e", uid="gone"))
    before = cache.versions("Deployment")
    cache.put("Deployment", thing(name="f", uid="came-since"))
    assert cache.keep_only("Deployment", ["stays"], before) == {KEY}
    assert {name for _, name in cache.children(KEY)} == {"d", "f"}


def test_managed_fields_are_not_kept() -> None:
    cache = Cache()
    cache.put("Deployment", thing())
    assert "managedFields" not in cache.children(KEY)["Deployment", "d"]["metadata"]


@given(st.permutations([(uid, version) for uid in ("a", "b") for version in (1, 2, 3)]))
def test_any_order_of_states_ends_in_the_newest(order: list[tuple[str, int]]) -> None:
    cache = Cache()
    for uid, version in order:
        cache.put("Service", thing("Service", name=uid, uid=uid, version=version))
    found = cache.children(KEY)
    assert {name: each["metadata"]["resourceVersion"] for (_, name), each in found.items()} == {
        "a": "3",
        "b": "3",
    }


@given(st.permutations([(version, version % 3 != 0) for version in range(1, 8)]))
def test_any_order_of_coming_and_going_ends_in_the_newest(order: list[tuple[int, bool]]) -> None:
    """At versions 3 and 6 it had no label; at 7 it has it again."""
    cache = Cache()
    for version, labelled in order:
        if labelled:
            cache.put("Service", thing("Service", version=version))
        else:
            cache.remove("Service", "u1", version)
    assert cache.children(KEY)["Service", "d"]["metadata"]["resourceVersion"] == "7"
