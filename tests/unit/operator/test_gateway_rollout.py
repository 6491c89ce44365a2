"""How far the gateways' Deployment is, by what its controller tells; who waits for it."""

from __future__ import annotations

from random import Random
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from baton_operator.decide.rollout.gateways import Gateways, gateways_of
from baton_operator.decide.stamps import stamped
from baton_operator.names import LABEL_COMPONENT
from fakes.kube_world import KubeWorld
from fakes.service_specs import pair
from fakes.settled_pair import settled_pair

INPUTS = "what the user asked for"


def deployment(image: str, replicas: int = 2) -> dict[str, Any]:
    template = {"spec": {"containers": [{"name": "baton", "image": image}]}}
    meta = {"name": "chat-gateway"}
    spec = {"replicas": replicas, "template": template}
    return {"kind": "Deployment", "metadata": meta, "spec": spec}


def told(
    replicas: int = 2, updated: int = 2, available: int = 2, seen: int = 7, **progressing: str
) -> Gateways:
    """Of the wanted Deployment, at its seventh generation."""
    found = stamped(deployment("baton:2"), INPUTS)
    found["metadata"]["generation"] = 7
    conditions = [{"type": "Progressing", **progressing}] if progressing else []
    counts = {"replicas": replicas, "updatedReplicas": updated, "availableReplicas": available}
    status = {"observedGeneration": seen, "conditions": conditions, **counts}
    return gateways_of({**found, "status": status}, deployment("baton:2"), INPUTS)


def test_it_is_rolled_when_no_old_one_is_left_and_a_new_one_accepts() -> None:
    assert told() == Gateways(desired=2, ready=2, updated=2, rolled=True)
    # One more is wanted, or one of them went: none of the others is old.
    assert told(replicas=1, updated=1, available=1).rolled
    assert not told(replicas=3, updated=1).rolled
    assert not told(available=0).rolled


def test_what_was_counted_of_an_older_spec_does_not_count() -> None:
    assert told(seen=6) == Gateways(desired=2, ready=2, updated=0, rolled=False)


def test_one_that_was_just_made_has_none() -> None:
    found = stamped(deployment("baton:2"), INPUTS)
    assert gateways_of(found, deployment("baton:2"), INPUTS) == Gateways(2, 0, 0, rolled=False)


def test_none_wanted_is_rolled_when_none_is_left() -> None:
    found = {**stamped(deployment("baton:2", 0), INPUTS), "status": {"observedGeneration": 1}}
    assert gateways_of(found, deployment("baton:2", 0), INPUTS).rolled


def test_what_was_made_of_something_else_is_old_however_complete() -> None:
    live = {**stamped(deployment("baton:1"), "before"), "status": {"updatedReplicas": 2}}
    assert not gateways_of(live, deployment("baton:2"), INPUTS).rolled
    # As after an operator's upgrade: built another way, of the same wishes.
    assert gateways_of(live, deployment("baton:2"), "before").updated == 2
    assert gateways_of(live, None, INPUTS).updated == 2


@pytest.mark.parametrize(
    ("status", "reason"), [("False", "ProgressDeadlineExceeded"), ("Unknown", "DeploymentPaused")]
)
def test_it_is_stuck_when_its_controller_says_so(status: str, reason: str) -> None:
    about = {"status": status, "reason": reason, "message": f"says {reason}"}
    assert told(replicas=3, updated=1, **about).stuck == f"says {reason}"
    # Of a rollout that is over, and of one that the controller has not seen yet.
    assert not told(**about).stuck
    assert not told(replicas=3, updated=1, seen=6, **about).stuck
    assert not told(replicas=3, updated=1, status="True", reason="ReplicaSetUpdated").stuck


def images(world: KubeWorld, component: str) -> set[str]:
    """Of pods that stay."""
    return {
        pod["spec"]["containers"][0]["image"]
        for pod in world.pods(component)
        if "deletionTimestamp" not in pod["metadata"]
    }


@pytest.mark.parametrize("strategy", ["PairFirst", "InPlace"])
@settings(max_examples=6)
@given(random=st.randoms(use_true_random=False))
def test_as_long_as_an_old_gateway_is_there_so_is_an_old_worker(
    strategy: str, random: Random
) -> None:
    """Whoever is faster: new gateways come up at a tenth of the pace of everything else."""
    world = settled_pair(2, 2)
    world.edit({**pair(2, 2, "baton:2"), "rollout": {"strategy": strategy}})
    for _ in range(60):
        world.now_s += 1.0
        world.round(at_most=random.choice((None, 1, 3)))
        world.controllers()
        for pod in world.pods():
            is_gateway = pod["metadata"]["labels"][LABEL_COMPONENT] == "gateway"
            if random.random() < (0.05 if is_gateway else 0.5):
                world.start(pod)
            if random.random() < 0.5:
                world.finish(pod)
        if "baton:1" in images(world, "gateway"):
            assert "baton:1" in images(world, "worker")
    world.settle()
    assert images(world, "gateway") == images(world, "worker") == {"baton:2"}
