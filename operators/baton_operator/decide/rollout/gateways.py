"""The gateways' Deployment: how far its pods are those that are wanted."""

from __future__ import annotations

from dataclasses import dataclass

from baton_operator.decide.stamps import has_pods_of
from baton_operator.seen import Manifest


@dataclass(frozen=True, slots=True)
class Gateways:
    """What the Deployment's controller tells."""

    desired: int
    ready: int
    """Those that accept, old ones among them."""
    updated: int
    """Those made of what is wanted now, ready or not."""
    rolled: bool
    """Whether no old one is left, and some new one is up if any is wanted."""
    stuck: str = ""
    """Why the controller does not go on, in its words; empty: it does, or is done."""


def gateways_of(live: Manifest, wanted: Manifest | None, inputs: str) -> Gateways:
    """Of the Deployment that is there. `wanted` is what would be applied, of these inputs (see
    `stamps.manifest_due`); None: nobody can say, and any will do."""
    status = live.get("status") or {}
    desired, ready = live["spec"].get("replicas", 1), status.get("availableReplicas", 0)
    # Until the controller has seen the newest spec, what it counted is of another.
    told = status.get("observedGeneration", 0) >= live["metadata"].get("generation", 0)
    if not told or (wanted is not None and not has_pods_of(live, wanted, inputs)):
        return Gateways(desired, ready, updated=0, rolled=False)
    updated = status.get("updatedReplicas", 0)
    # The last old one goes when as many new ones accept as are wanted: see the Deployment's limits.
    rolled = status.get("replicas", 0) <= updated and (ready > 0 or desired == 0)
    return Gateways(desired, ready, updated, rolled, "" if rolled else _stuck(status))


def _stuck(status: Manifest) -> str:
    """Its progress deadline has passed, or somebody has paused it."""
    for each in status.get("conditions") or ():
        if each["type"] == "Progressing" and each["status"] != "True":
            return str(each.get("message") or each.get("reason") or "")
    return ""
