"""A service of prefill and decode workers that has come up, in a simulated cluster."""

from __future__ import annotations

from baton_operator import names
from fakes.kube_world import KubeWorld
from fakes.service_specs import pair


def settled_pair(prefill: int, decode: int) -> KubeWorld:
    world = KubeWorld(pair(prefill, decode))
    world.settle()
    return world


def decoders(world: KubeWorld) -> list[str]:
    """Names of the decode workers' pods that stay, sorted."""
    return sorted(
        each["metadata"]["name"]
        for each in world.pods("worker")
        if each["metadata"]["labels"][names.LABEL_POOL] == "dec"
        and "deletionTimestamp" not in each["metadata"]
    )
