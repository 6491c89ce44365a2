"""What is drift and what is only the API server's way of writing things."""

from __future__ import annotations

from typing import Any

import pytest

from baton_operator import names
from baton_operator.decide.drift import says
from baton_operator.decide.stamps import manifest_due, stamped


@pytest.mark.parametrize(
    ("live", "applied"),
    [
        ({"cpu": "500m"}, {"cpu": "0.5"}),
        ({"memory": "1Gi"}, {"memory": "1024Mi"}),
        ({"port": 80}, {"port": 80}),
        # Defaults, and other managers' fields.
        ({"a": 1, "protocol": "TCP"}, {"a": 1}),
        # Left out because empty.
        ({}, {"labels": {}, "hostNetwork": False, "ingress": [], "note": ""}),
        ({"spec": {}}, {"spec": {"annotations": {}}}),
        # A sidecar was put in, in front.
        (
            {"containers": [{"name": "proxy"}, {"name": "baton", "image": "b"}]},
            {"containers": [{"name": "baton", "image": "b"}]},
        ),
        ({"args": ["a", "b"]}, {"args": ["a", "b"]}),
    ],
)
def test_no_drift(live: Any, applied: Any) -> None:
    assert says(live, applied)


@pytest.mark.parametrize(
    ("live", "applied"),
    [
        ({"cpu": "600m"}, {"cpu": "0.5"}),
        ({"image": "b:2"}, {"image": "b:1"}),
        ({"hostNetwork": True}, {"hostNetwork": False}),
        ({"args": ["b", "a"]}, {"args": ["a", "b"]}),
        ({"args": ["a"]}, {"args": ["a", "b"]}),
        ({}, {"args": ["a"]}),
        ({"containers": [{"name": "proxy"}]}, {"containers": [{"name": "baton"}]}),
        ({"a": "text"}, {"a": {"b": 1}}),
        ({"replicas": None}, {"replicas": 2}),
    ],
)
def test_drift(live: Any, applied: Any) -> None:
    assert not says(live, applied)


def deployment(env: str = "1", surge: int = 1, replicas: int = 2) -> dict[str, Any]:
    return {
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {
            "replicas": replicas,
            "strategy": {"maxSurge": surge},
            "template": {"spec": {"containers": [{"name": "baton", "env": env}]}},
        },
    }


def test_what_is_there_and_right_is_not_applied() -> None:
    live = stamped(deployment(), "asked")
    assert manifest_due(deployment(), live, "asked") is None


def test_changed_by_hand_is_applied() -> None:
    live = {**stamped(deployment(), "asked"), "spec": deployment(env="hacked")["spec"]}
    assert manifest_due(deployment(), live, "asked") is not None


def test_pods_built_another_way_for_the_same_request_are_left_alone() -> None:
    live = stamped(deployment(), "asked")
    assert manifest_due(deployment(env="2"), live, "asked") is None
    assert manifest_due(deployment(env="2"), live, "asked otherwise") is not None


def test_what_changes_no_pod_is_applied_at_once() -> None:
    live = stamped(deployment(), "asked")
    assert manifest_due(deployment(surge=2), live, "asked") is not None


def test_stamp_follows_a_request_that_came_to_the_same() -> None:
    """Else another version of the operator would take it for a new request."""
    live = stamped(deployment(), "asked")
    due = manifest_due(deployment(), live, "asked otherwise")
    assert due is not None
    assert due["metadata"]["annotations"][names.ANNOTATION_INPUT_HASH] == "asked otherwise"
