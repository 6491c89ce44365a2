"""What makes a new revision: all that worker pods are made from, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from baton_operator.decide.rollout.revision import input_hash, revision_of
from baton_operator.resources.context import Context, Installation
from baton_operator.resources.pods.worker import worker_template
from baton_operator.resources.revision_config import revision_config
from baton_operator.seen import ServiceSeen
from baton_operator.types.model_service import ModelServiceSpec
from fakes.service_specs import pair, pool

ASKED: dict[str, Any] = {
    **pair(2, 3),
    "model": {"source": "acme/model-8b", "revision": "main"},
}
MORE_WORKERS = {**ASKED, "pools": pair(5, 1)["pools"]}

NOT_THEIRS = [
    {"gateway": {"replicas": 5, "auth": "keys", "drainTimeoutSeconds": 5}},
    {"routing": {"policy": "round_robin", "disaggregation": "always"}},
    {"slo": {"ttftSeconds": 1.0}},
    {"tenants": [{"name": "gold", "weight": 3.0}]},
    {"rollout": {"strategy": "InPlace", "progressDeadlineSeconds": 60, "paused": True}},
    {"pools": pair(5, 1, maxSurge=3, maxUnavailable=1)["pools"]},
    {"pools": pair(2, 3)["pools"][::-1]},
]
THEIRS = [
    {"model": {"source": "acme/model-70b", "revision": "main"}},
    {"model": {**ASKED["model"], "dtype": "float16"}},
    {"model": {**ASKED["model"], "startTimeoutSeconds": 60}},
    {"model": {**ASKED["model"], "tokenSecret": {"name": "hub"}}},
    {"imagePullPolicy": "Always"},
    {"tiers": {"hostMemory": "8Gi"}},
    {"transport": {"profile": "node"}},
    {"store": {"redis": {"url": "redis://other:6379/0"}}},
    {"security": {"mtlsSecret": "mtls"}},
    {"pools": [pool("pre", "prefill", 2), pool("dec", "decode", 3, drainSeconds=60)]},
    {"pools": [pool("pre", "prefill", 2), pool("dec", "decode", 3, gpus=1)]},
    {
        "pools": [
            pool("pre", "prefill", 2),
            pool("dec", "decode", 3, podTemplate={"spec": {"priorityClassName": "high"}}),
        ]
    },
    {
        "pools": [
            pool("pre", "prefill", 2),
            {
                **pool("dec", "decode", 3),
                "engine": {"kind": "mock", "maxSequences": 8},
            },
        ]
    },
]


def spec(change: dict[str, Any]) -> ModelServiceSpec:
    return ModelServiceSpec.model_validate({**ASKED, **change})


def pods(asked: ModelServiceSpec) -> dict[str, Any]:
    """All that the workers of a service are made from."""
    seen = ServiceSeen("demo", "team", "uid", 1, asked)
    context = Context(seen, Installation(b"k" * 32, "redis:6379"), "baton:1", "9f2c1e")
    templates = {each.name: worker_template(context, each, "r1") for each in asked.pools}
    return {"templates": templates, "settings": revision_config(context, "r1")["data"]}


def name(asked: ModelServiceSpec, image: str = "baton:1", commit: str | None = "9f2c1e") -> str:
    return revision_of(asked, image, commit)


@pytest.mark.parametrize("change", NOT_THEIRS, ids=lambda change: next(iter(change)))
def test_what_the_revision_leaves_out_changes_no_worker(change: dict[str, Any]) -> None:
    assert pods(spec(change)) == pods(spec({}))
    assert name(spec(change)) == name(spec({}))


@pytest.mark.parametrize("change", THEIRS, ids=lambda change: next(iter(change)))
def test_what_changes_workers_is_a_new_revision(change: dict[str, Any]) -> None:
    assert pods(spec(change)) != pods(spec({}))
    assert name(spec(change)) != name(spec({}))


def test_image_and_commit_count_and_the_name_of_the_branch_does_not() -> None:
    assert name(spec({}), image="baton:2") != name(spec({}))
    assert name(spec({}), commit="other") != name(spec({}))
    tagged = {"model": {**ASKED["model"], "revision": "v1"}}
    assert name(spec(tagged)) == name(spec({}))
    assert name(spec(tagged), commit=None) != name(spec({}), commit=None)


def test_default_that_is_written_out_is_no_change() -> None:
    assert name(spec({"model": {**ASKED["model"], "dtype": "auto"}})) == name(spec({}))


def test_name_is_text_in_any_yaml() -> None:
    assert name(spec({})).startswith("r")
    assert len(name(spec({}))) == 9


def test_gateways_follow_all_but_sizes() -> None:
    def inputs(change: dict[str, Any]) -> str:
        return input_hash(spec(change), "baton:1", "9f2c1e")

    assert inputs({"routing": {"policy": "round_robin"}}) != inputs({})
    assert inputs({"gateway": {"replicas": 7}}) == inputs({})
    assert inputs({"rollout": {"paused": True}}) == inputs({})
    assert input_hash(ModelServiceSpec.model_validate(MORE_WORKERS), "baton:1", "9f2c1e") == inputs(
        {}
    )
