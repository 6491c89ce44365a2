"""The status of a ModelService and of its WorkerPools: what is found, as the schema has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from baton_operator import names
from baton_operator.actions import Action, Emit, PatchStatus
from baton_operator.decide.report.conditions import joined, transitions, verdict
from baton_operator.decide.report.phase import phase_of
from baton_operator.decide.report.slo import measured
from baton_operator.decide.report.verdicts import num_serving, verdicts
from baton_operator.decide.rollout.goals import PoolState
from baton_operator.decide.rollout.traffic import weights
from baton_operator.decide.situation import Situation
from baton_operator.seen import Manifest, Seen
from baton_operator.types.status import RevisionStatus


def report(situation: Situation) -> list[Action]:
    """Events of what has turned, then the statuses that have changed."""
    service = situation.seen.service
    status = _service_status(situation)
    actions: list[Action] = []
    if status != service.status:
        actions += _rollout_events(service.status.get("revision") or {}, status["revision"])
        actions += transitions(service.status.get("conditions") or (), status["conditions"])
        actions.append(PatchStatus(names.SERVICE_KIND, service.name, status))
    actions += _pool_statuses(situation)
    return actions


def _service_status(situation: Situation) -> dict[str, Any]:
    seen, rollout = situation.seen, situation.rollout
    service, found = seen.service, verdicts(situation)
    desired = sum(pool.desired for pool in rollout.pools)
    parts = {
        "observedGeneration": service.generation,
        "phase": phase_of(found, rollout),
        "url": _url(situation),
        "workers": f"{sum(map(num_serving, rollout.pools))}/{desired}",
        "conditions": joined(
            service.status.get("conditions") or (),
            found.values(),
            service.generation,
            seen.now_s,
        ),
        "pools": [_pool_part(pool, rollout.target) for pool in rollout.pools],
        "revision": _revision_part(situation),
        "model": _model_part(situation),
        "image": situation.image,
        "defaultImage": situation.default_image,
        "slo": measured(seen),
        "startup": _startup(situation),
    }
    return {key: value for key, value in parts.items() if value is not None}


def _pool_part(pool: PoolState, target: str | None) -> dict[str, Any]:
    return {
        "name": pool.name,
        "desired": pool.desired,
        "ready": num_serving(pool),
        "draining": sum(
            pod.drain_since is not None for each in pool.workloads.values() for pod in each.pods
        ),
        "updated": pool.available(target),
    }


def _revision_part(situation: Situation) -> dict[str, Any]:
    share = weights(situation.rollout).get(situation.rollout.target or "")
    part = RevisionStatus(
        **{
            **situation.revision.model_dump(),
            "weight": None if share is None else round(share * 100),
        }
    )
    return part.model_dump(by_alias=True, exclude_none=True)


def _model_part(situation: Situation) -> dict[str, Any]:
    model, state = situation.seen.service.spec.model, situation.model
    if not state.ready:
        # What was found for another model stays until this one is found.
        return dict(situation.seen.service.status.get("model") or {})
    part = {"source": model.source}
    if state.commit is not None:
        part["revision"] = state.commit
        if model.revision is not None:
            part["requested"] = model.revision
    return part


def _startup(situation: Situation) -> dict[str, Any] | None:
    progress = situation.seen.progress
    starting = [
        progress[pod.name].stage
        for pod in situation.seen.workers
        if pod.name in progress and not pod.ready and not pod.deleting
    ]
    counts = {
        "downloading": situation.model.progress or _count(starting, "downloading"),
        "loading": _count(starting, "loading"),
    }
    return {key: text for key, text in counts.items() if text} or None


def _count(stages: list[str], stage: str) -> str:
    num = stages.count(stage)
    return f"{num} of {len(stages)} workers" if num else ""


def _url(situation: Situation) -> str:
    service = situation.seen.service
    gateway = service.spec.gateway
    if gateway.ingress is not None:
        scheme = "https" if gateway.ingress.tls_secret else "http"
        return f"{scheme}://{gateway.ingress.host}"
    scheme = "https" if gateway.tls else "http"
    host = f"{names.gateway(service.name)}.{service.namespace}.svc"
    return f"{scheme}://{host}:{names.GATEWAY_HTTP_PORT}"


def _rollout_events(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Emit]:
    old, new = RevisionStatus.model_validate(before), RevisionStatus.model_validate(after)
    if new.updating is not None and new.updating != old.updating:
        text = f"revision {new.updating} is to serve"
        if new.current is not None and new.current != new.updating:
            text += f" instead of {new.current}"
        yield Emit("Normal", "RolloutStarted", text)
    if new.current is not None and new.current != old.current:
        yield Emit("Normal", "RolloutComplete", f"revision {new.current} serves alone")
    elif old.updating is not None and new.updating is None and new.current is not None:
        yield Emit("Normal", "RolledBack", f"revision {new.current} serves alone again")


def _pool_statuses(situation: Situation) -> Iterator[Action]:
    seen = situation.seen
    existing = seen.of_kind(names.POOL_KIND)
    for pool in situation.rollout.pools:
        name = names.worker_pool(seen.service.name, pool.name)
        live = existing.get(name)
        if live is None:
            continue
        status = _pool_status(situation, pool, live)
        if status != (live.get("status") or {}):
            yield PatchStatus(names.POOL_KIND, name, status)


def _counted_pods(seen: Seen, pool: str) -> dict[str, str]:
    """Labels of the pods by which an autoscaler measures: it takes each for a replica."""
    spec, selector = seen.service.spec.pool(pool), names.pool_selector(seen.service.name, pool)
    return selector | names.GROUP_LEADER if spec and spec.parallelism.nodes > 1 else selector


def _pool_status(situation: Situation, pool: PoolState, live: Manifest) -> dict[str, Any]:
    seen = situation.seen
    pods = [pod for pod in seen.workers if pod.pool == pool.name and not pod.deleting]
    ready, generation = num_serving(pool), live["metadata"].get("generation", 0)
    text = f"{ready} of {pool.desired} workers are ready"
    full, settled = ready >= pool.desired, ready == pool.desired == len(pods)
    stalled = situation.is_stalled
    found = [
        verdict("Ready", full, "WorkersReady" if full else "WorkersMissing", text),
        verdict("Progressing", not settled, "Complete" if settled else "Changing", text),
        verdict("Stalled", stalled, "SeeModelService" if stalled else "NotStalled"),
    ]
    return {
        "replicas": len(pods),
        "readyReplicas": ready,
        "selector": names.selector_text(_counted_pods(seen, pool.name)),
        "observedGeneration": generation,
        "conditions": joined(
            (live.get("status") or {}).get("conditions") or (), found, generation, seen.now_s
        ),
    }
