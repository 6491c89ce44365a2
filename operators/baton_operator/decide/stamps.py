"""The stamps on what was applied, by which a later round knows whether to apply again."""

from __future__ import annotations

from typing import Any

from baton_operator import names
from baton_operator.decide.drift import says
from baton_operator.decide.rollout.revision import digest
from baton_operator.decide.rollout.workloads import WORKLOAD_KINDS
from baton_operator.seen import Manifest


def manifest_due(
    manifest: Manifest, live: Manifest | None, inputs: str | None, *, keep_pods: bool = False
) -> dict[str, Any] | None:
    """What to apply, stamped; None: what is there is right.

    `inputs` is given for what pods are made from, and stands for what the user asked for: pods
    that are built another way while the user asks for the same are the work of another version of
    the operator, and those that run stay as they are. So they do with `keep_pods`.
    """
    wanted = stamped(manifest, inputs)
    if live is None:
        return wanted
    has = live["metadata"].get("annotations") or {}
    stamps = wanted["metadata"]["annotations"]
    built = has.get(names.ANNOTATION_MANIFEST_HASH, "")
    if built == stamps[names.ANNOTATION_MANIFEST_HASH]:
        return None if says(live, wanted) else wanted
    if built.partition(".")[2] == _pods_hash(manifest):
        return wanted
    same_inputs = inputs is not None and has.get(names.ANNOTATION_INPUT_HASH) == inputs
    return None if same_inputs or keep_pods else wanted


def has_pods_of(live: Manifest, manifest: Manifest, inputs: str) -> bool:
    """Whether the pods of what is there are made of the same: `manifest_due` leaves them alone."""
    has = live["metadata"].get("annotations") or {}
    built = has.get(names.ANNOTATION_MANIFEST_HASH, "")
    same_inputs = has.get(names.ANNOTATION_INPUT_HASH) == inputs
    return same_inputs or built.partition(".")[2] == _pods_hash(manifest)


def stamped(manifest: Manifest, inputs: str | None) -> dict[str, Any]:
    """The manifest with its stamps."""
    meta = manifest["metadata"]
    built = f"{digest(_without_count(manifest))[:16]}.{_pods_hash(manifest)}"
    stamps = {names.ANNOTATION_MANIFEST_HASH: built}
    if inputs is not None:
        stamps[names.ANNOTATION_INPUT_HASH] = inputs
    annotations = {**(meta.get("annotations") or {}), **stamps}
    return {**manifest, "metadata": {**meta, "annotations": annotations}}


def _pods_hash(manifest: Manifest) -> str:
    """Of the part that pods are made from."""
    spec = manifest.get("spec") or {}
    parts = [spec.get("template"), spec.get("leaderWorkerTemplate"), manifest.get("data")]
    return digest(parts)[:16]


def _without_count(manifest: Manifest) -> dict[str, Any]:
    """The count has its own ways to change."""
    if manifest["kind"] not in WORKLOAD_KINDS:
        return dict(manifest)
    spec = {key: value for key, value in manifest["spec"].items() if key != "replicas"}
    return {**manifest, "spec": spec}
