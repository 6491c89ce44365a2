"""Children that are missing, out of date or no longer wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from baton_operator import names
from baton_operator.actions import Action, Apply, Delete, Emit, Scale
from baton_operator.decide.rollout.goals import gateways_wait
from baton_operator.decide.rollout.surge import Size
from baton_operator.decide.rollout.workloads import WORKLOAD_KINDS, Workload
from baton_operator.decide.situation import Situation
from baton_operator.decide.stamps import manifest_due, stamped
from baton_operator.resources.context import Context
from baton_operator.resources.revision_config import revision_config
from baton_operator.resources.worker_deployment import workload
from baton_operator.seen import Manifest

Sizes = dict[tuple[str, str], Size]
"""Of workloads, by pool and revision."""

HELD = frozenset({"Deployment", "ConfigMap"})
"""Of the shared children: those that gateway pods are made from."""


def apply_children(situation: Situation, sizes: Sizes) -> list[Action]:
    """What is missing, was changed by somebody, or is built another way now."""
    context = situation.context
    if context is None:
        return []
    return [
        *_secret(situation),
        *_shared(situation, context),
        *_job(situation),
        *_workers(situation, context, sizes),
    ]


def delete_children(situation: Situation) -> list[Action]:
    """What the service owns and does not want any more.

    While another revision has workers, all that those may be using stays.
    """
    context, target = situation.context, situation.rollout.target
    if context is None:
        return []
    wanted = {_key(manifest) for manifest in (*situation.shared, *_optional(situation.job))}
    if target is not None:
        wanted.add(("ConfigMap", names.revision_config(context.name, target)))
    old = [
        each
        for each in situation.fleet.values()
        if each.revision != target or context.spec.pool(each.pool) is None
    ]
    wanted |= {(each.kind, each.name) for each in situation.fleet.values()}
    if target is not None:
        wanted -= {(each.kind, each.name) for each in old if _is_gone(each)}
    return [
        Delete(*key, uid=manifest["metadata"].get("uid", ""), event=_told(key))
        for key, manifest in sorted(_owned(situation).items())
        if key not in wanted and not (old and _may_be_used(manifest))
    ]


def _is_gone(old: Workload) -> bool:
    return old.replicas == 0 and old.num_pods == 0


def _may_be_used(manifest: Manifest) -> bool:
    """By workers of another revision: what is there for a revision or pool, and the model."""
    labels = manifest["metadata"].get("labels") or {}
    if manifest["kind"] in WORKLOAD_KINDS:
        return False
    return (
        names.LABEL_REVISION in labels
        or names.LABEL_POOL in labels
        or manifest["kind"] in ("PersistentVolumeClaim", "Job")
    )


def _secret(situation: Situation) -> Iterator[Action]:
    """Never read, so written whenever it may be missing."""
    service = situation.seen.service
    secret = next(each for each in situation.shared if each["kind"] == "Secret")
    name = secret["metadata"]["name"]
    missed = any(
        trouble.reason == "SecretMissing" and name in trouble.message
        for trouble in situation.passing
    )
    known = names.gateway(service.name) in situation.seen.of_kind("Deployment")
    first = not known and situation.rollout.target is not None
    if situation.seen.rewrite_secrets or missed or first:
        yield Apply(secret)


def _shared(situation: Situation, context: Context) -> Iterator[Action]:
    autoscaled = context.spec.gateway.autoscaling is not None
    rollout = situation.rollout
    waits = gateways_wait(rollout)
    for manifest in situation.shared:
        kind, name = _key(manifest)
        if kind == "Secret":
            continue
        held = kind in HELD
        found = situation.seen.of_kind(kind).get(name)
        if held and rollout.target is None and found is None:
            # A gateway reads the model's tokenizer.
            continue
        if kind == "Deployment" and autoscaled and found is not None:
            manifest = _with_replicas(manifest, found["spec"].get("replicas", 1))
        due = manifest_due(
            manifest, found, situation.inputs if held else None, keep_pods=held and waits
        )
        if due is not None:
            yield Apply(due)
        elif kind == "Deployment" and found is not None:
            yield from _gateway_count(manifest, found)


def _gateway_count(manifest: Manifest, live: Manifest) -> Iterator[Action]:
    """How many gateways there are does not wait for how they are made."""
    wanted, has = manifest["spec"].get("replicas"), live["spec"].get("replicas", 1)
    if wanted is not None and wanted != has:
        kind, name = _key(manifest)
        yield Scale(kind, name, live["metadata"].get("uid", ""), wanted, expected=has)


def _job(situation: Situation) -> Iterator[Action]:
    """The fetch Job, until the model is found; a Job cannot be changed once it is there."""
    job, model = situation.job, situation.model
    if job is None or model.ready or situation.blocking:
        return
    if job["metadata"]["name"] not in situation.seen.of_kind("Job"):
        told = Emit("Normal", "Fetching", f"fetching {situation.seen.service.spec.model.source}")
        yield Apply(stamped(job, None), told)


def _workers(situation: Situation, context: Context, sizes: Sizes) -> Iterator[Action]:
    """Settings and workloads of the target. Other revisions were made from specs that are gone."""
    target = situation.rollout.target
    if target is None:
        return
    manifests = []
    for pool in context.spec.pools:
        found = situation.fleet.get((pool.name, target))
        size = sizes.get((pool.name, target))
        if found is not None or size is not None:
            replicas = found.replicas if found else size.replicas if size else 0
            manifests.append((workload(context, pool, target, replicas), found is None))
    if not manifests:
        return
    name = names.revision_config(context.name, target)
    if name not in situation.seen.of_kind("ConfigMap"):
        yield Apply(stamped(revision_config(context, target), target))
    for manifest, is_new in manifests:
        kind, name = _key(manifest)
        live = None if is_new else situation.seen.of_kind(kind).get(name)
        count = f"{manifest['spec']['replicas']} workers of revision {target}"
        told = Emit("Normal", "Created", f"{kind} {name}: {count}")
        due = manifest_due(manifest, live, target)
        if due is not None:
            yield Apply(due, told if is_new else None)


def _with_replicas(manifest: Manifest, replicas: int) -> dict[str, Any]:
    return {**manifest, "spec": {**manifest["spec"], "replicas": replicas}}


def _owned(situation: Situation) -> dict[tuple[str, str], Manifest]:
    seen = situation.seen
    kinds = {kind for kind, _ in seen.objects}
    return {
        (kind, name): manifest for kind in kinds for name, manifest in seen.of_kind(kind).items()
    }


def _key(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _optional(manifest: Manifest | None) -> Iterable[Manifest]:
    return () if manifest is None else (manifest,)


def _told(key: tuple[str, str]) -> Emit:
    return Emit("Normal", "Deleted", f"{key[0]} {key[1]} is not needed any more")
