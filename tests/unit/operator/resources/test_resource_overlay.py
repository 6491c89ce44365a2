"""podTemplate: merged as `kubectl patch` merges pods, without losing what Baton needs."""

from __future__ import annotations

from typing import Any

import pytest

from baton.core.errors import ConfigError
from baton_operator.resources.context import Context
from baton_operator.resources.pods.merge import merge_pod_spec
from baton_operator.resources.pods.worker import worker_template
from fakes.model_services import container, context_of, environment, mounts, with_pool


def laid(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    return merge_pod_spec(base, over, "podTemplate.spec")


def worker(**pod_template: Any) -> dict[str, Any]:
    context: Context = with_pool(context_of(), podTemplate=pod_template)
    return worker_template(context, context.spec.pools[0], "r1")


def test_maps_are_merged_and_scalars_replaced() -> None:
    base = {"nodeSelector": {"a": "1", "b": "2"}, "priorityClassName": "low"}
    over = {"nodeSelector": {"b": "3"}, "priorityClassName": "high"}
    assert laid(base, over) == {
        "nodeSelector": {"a": "1", "b": "3"},
        "priorityClassName": "high",
    }


def test_a_map_with_keys_that_look_like_lists_stays_a_map() -> None:
    over = {"nodeSelector": {"env": "prod", "volumes": "fast"}}
    assert laid({"nodeSelector": {"a": "1"}}, over)["nodeSelector"] == {
        **{"a": "1", "env": "prod", "volumes": "fast"}
    }


def test_containers_volumes_and_env_are_merged_by_name() -> None:
    base = {
        "containers": [{"name": "baton", "image": "a", "env": [{"name": "A", "value": "1"}]}],
        "volumes": [{"name": "tmp", "emptyDir": {"medium": "Memory"}}],
    }
    over = {
        "containers": [
            {"name": "baton", "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "3"}]},
            {"name": "sidecar", "image": "s"},
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": "more", "emptyDir": {}},
        ],
    }
    assert laid(base, over) == {
        "containers": [
            {
                "name": "baton",
                "image": "a",
                "env": [{"name": "A", "value": "3"}, {"name": "B", "value": "2"}],
            },
            {"name": "sidecar", "image": "s"},
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
            {"name": "more", "emptyDir": {}},
        ],
    }


def test_another_kind_of_source_takes_the_place_of_the_first() -> None:
    base = {
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "containers": [
            {"name": "c", "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}
        ],
    }
    over = {
        "volumes": [{"name": "tmp", "persistentVolumeClaim": {"claimName": "scratch"}}],
        "containers": [{"name": "c", "env": [{"name": "A", "value": "1"}]}],
    }
    assert laid(base, over) == over


def test_tolerations_are_added() -> None:
    base = {"tolerations": [{"key": "a", "operator": "Exists"}]}
    over = {"tolerations": [{"key": "b", "operator": "Exists"}]}
    assert [each["key"] for each in laid(base, over)["tolerations"]] == ["a", "b"]


def test_null_removes_and_nothing_null_is_left() -> None:
    base = {"securityContext": {"runAsUser": 65532, "runAsNonRoot": True}, "hostname": "x"}
    over = {
        "securityContext": {"runAsUser": None},
        "hostname": None,
        "affinity": {"nodeAffinity": None, "podAffinity": {}},
    }
    assert laid(base, over) == {
        "securityContext": {"runAsNonRoot": True},
        "affinity": {"podAffinity": {}},
    }


def test_neither_side_is_changed() -> None:
    base: dict[str, Any] = {"containers": [{"name": "c", "env": [{"name": "A", "value": "1"}]}]}
    over = {"containers": [{"name": "c", "env": [{"name": "B", "value": "2"}]}]}
    before = (repr(base), repr(over))
    laid(base, over)
    assert (repr(base), repr(over)) == before


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"containers": {"name": "baton"}}, r"podTemplate\.spec\.containers has to be a list"),
        ({"containers": [{"image": "x"}]}, r"podTemplate\.spec\.containers\[0\] needs name"),
        ({"containers": ["baton"]}, r"containers\[0\] has to hold fields by name"),
        ({"securityContext": "none"}, r"securityContext has to hold fields by name"),
        ({"tolerations": {"key": "a"}}, r"tolerations has to be a list"),
        (
            {"containers": [{"name": "c", "env": {"A": "1"}}]},
            r"containers\[0\]\.env has to be a list",
        ),
    ],
)
def test_what_cannot_be_merged_is_named(over: dict[str, Any], message: str) -> None:
    base = {"containers": [{"name": "c"}], "securityContext": {"runAsNonRoot": True}}
    with pytest.raises(ConfigError, match=message):
        laid(base, over)


def test_the_message_names_the_pool() -> None:
    with pytest.raises(ConfigError, match=r"pools\[all\]\.podTemplate\.spec\.volumes"):
        worker(spec={"volumes": {}})


def test_probes_keep_what_they_ask_but_not_how_often() -> None:
    changed = {
        "name": "baton",
        "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 60},
        "readinessProbe": None,
        "startupProbe": {"failureThreshold": 9, "httpGet": {"path": "/else", "port": 1}},
    }
    plain, found = container(worker()), container(worker(spec={"containers": [changed]}))
    assert found["livenessProbe"] == {**plain["livenessProbe"], "periodSeconds": 60}
    assert found["readinessProbe"] == plain["readinessProbe"]
    assert found["startupProbe"] == {**plain["startupProbe"], "failureThreshold": 9}


def test_who_a_worker_is_cannot_be_overlaid_but_its_settings_can() -> None:
    changes = [
        {"name": "BATON_WORKER__WORKER_ID", "value": "me"},
        {"name": "BATON_STORE__URL", "value": "redis://else"},
        {"name": "BATON_WORKER__FABRIC", "value": "rail-1"},
        {"name": "HOME", "value": "/tmp"},
    ]
    found = environment(worker(spec={"containers": [{"name": "baton", "env": changes}]}))
    assert found["BATON_WORKER__WORKER_ID"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert "secretKeyRef" in found["BATON_STORE__URL"]
    assert (found["BATON_WORKER__FABRIC"], found["HOME"]) == ("rail-1", "/tmp")


def test_token_and_settings_stay_mounted() -> None:
    over = {
        "volumes": [{"name": "internal", "emptyDir": {}}, {"name": "config", "emptyDir": {}}],
        "containers": [
            {
                "name": "baton",
                "volumeMounts": [{"mountPath": "/etc/baton-internal", "name": "tmp"}],
            }
        ],
    }
    found, plain = mounts(worker(spec=over)), mounts(worker())
    for path in ("/etc/baton-internal", "/etc/baton"):
        assert found[path] == plain[path]


def test_labels_of_baton_win_and_others_are_added() -> None:
    metadata = {
        "labels": {"team": "search", "baton.dev/pool": "another"},
        "annotations": {"example.com/note": "x"},
    }
    found = worker(metadata=metadata)["metadata"]
    assert found["labels"]["team"] == "search"
    assert found["labels"]["baton.dev/pool"] == "all"
    assert found["annotations"]["example.com/note"] == "x"


@pytest.mark.parametrize(("wanted", "expected"), [(10, 135), (600, 600), (None, 135)])
def test_time_to_drain_can_only_grow(wanted: int | None, expected: int) -> None:
    spec = worker(spec={"terminationGracePeriodSeconds": wanted})["spec"]
    assert spec["terminationGracePeriodSeconds"] == expected


def test_service_links_stay_off() -> None:
    assert worker(spec={"enableServiceLinks": True})["spec"]["enableServiceLinks"] is False


def test_batons_container_comes_first_whatever_is_added() -> None:
    over = {"containers": [{"name": "proxy", "image": "p"}], "initContainers": [{"name": "wait"}]}
    spec = worker(spec=over)["spec"]
    assert [each["name"] for each in spec["containers"]] == ["baton", "proxy"]
    assert spec["initContainers"] == [{"name": "wait"}]
    assert worker(spec={"containers": None})["spec"]["containers"][0]["name"] == "baton"


def test_the_user_of_the_image_can_be_left_to_the_cluster() -> None:
    spec = worker(spec={"securityContext": {"runAsUser": None, "fsGroup": None}})["spec"]
    assert "runAsUser" not in spec["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
