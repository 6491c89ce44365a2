"""What is found about each condition of a service."""

from __future__ import annotations

from baton_operator.decide.report.conditions import Verdict, verdict
from baton_operator.decide.report.slo import slo_met
from baton_operator.decide.rollout.gateways import Gateways
from baton_operator.decide.rollout.goals import PoolState, Stage, gateways_wait, stage_of
from baton_operator.decide.situation import Situation
from baton_operator.decide.text import listed
from baton_operator.decide.troubles import Trouble

# Of what is refused: those that come again however often it is tried.
FINAL = frozenset({"NameTaken", "Invalid"})


def verdicts(situation: Situation) -> dict[str, Verdict]:
    """By type, in the order in which `kubectl describe` shows them."""
    roles = [_role_ready(situation, "prefill"), _role_ready(situation, "decode")]
    gateway = _gateway_ready(situation)
    stalled = _stalled(situation)
    found = [
        _ready([*roles, gateway]),
        stalled,
        _progressing(situation, stalled),
        _degraded(situation),
        *roles,
        gateway,
        _model_cached(situation),
        slo_met(situation.seen),
        _transport_ready(situation),
    ]
    return {each.type: each for each in found}


def num_serving(pool: PoolState) -> int:
    """Workers of all revisions that take requests."""
    return sum(workload.available for workload in pool.workloads.values())


def _ready(parts: list[Verdict]) -> Verdict:
    missing = [part for part in parts if part.status != "True"]
    if not missing:
        return Verdict("Ready", "True", "Serving", "requests are served")
    return Verdict("Ready", "False", missing[0].reason, listed([part.message for part in missing]))


def _role_ready(situation: Situation, role: str) -> Verdict:
    kind = f"{role.capitalize()}Ready"
    spec = situation.seen.service.spec
    pools = {pool.name for pool in spec.pools if pool.role in (role, "any")}
    mine = [pool for pool in situation.rollout.pools if pool.name in pools]
    ready, wanted = sum(map(num_serving, mine)), sum(pool.desired for pool in mine)
    text = f"{ready} of {wanted} workers for {role} are ready"
    if ready:
        return Verdict(kind, "True", "WorkersReady", text)
    if not wanted:
        return Verdict(kind, "False", "ScaledToZero", f"no workers for {role} are wanted")
    return Verdict(kind, "False", _why_none(situation), text)


def _why_none(situation: Situation) -> str:
    if situation.blocking:
        return situation.blocking[0].reason
    if not situation.model.ready:
        return situation.model.reason
    return situation.passing[0].reason if situation.passing else "WorkersStarting"


def _gateway_ready(situation: Situation) -> Verdict:
    kind, gateways = "GatewayReady", situation.gateways
    if gateways is None:
        why = "" if situation.model.ready else f": {situation.model.message}"
        return Verdict(kind, "False", "NotCreated", f"there is no gateway yet{why}")
    text = f"{gateways.ready} of {gateways.desired} gateways are ready"
    if not gateways.ready:
        why = "GatewaysStarting" if gateways.desired else "ScaledToZero"
        return Verdict(kind, "False", why, text)
    if _gateways_are_due(situation):
        return Verdict(kind, "True", "GatewaysUpdating", f"{text}, {_gateways_new(gateways)}")
    return Verdict(kind, "True", "GatewaysReady", text)


def _gateways_are_due(situation: Situation) -> bool:
    """Whether old ones are to be replaced now, and some still are there."""
    gateways = situation.gateways
    return gateways is not None and not gateways.rolled and not gateways_wait(situation.rollout)


def _gateways_new(gateways: Gateways) -> str:
    return f"{gateways.updated} of {gateways.desired} gateways are new"


def _stalled(situation: Situation) -> Verdict:
    problem = _standstill(situation)
    if problem is None:
        return Verdict("Stalled", "False", "NotStalled")
    return Verdict("Stalled", "True", problem.reason, problem.message)


def _standstill(situation: Situation) -> Trouble | None:
    """What does not pass without somebody's doing."""
    if situation.blocking:
        reasons = listed([trouble.message for trouble in situation.blocking])
        return Trouble(situation.blocking[0].reason, reasons)
    if situation.model.failed:
        return Trouble(situation.model.reason, situation.model.message)
    rollout = situation.rollout
    if situation.is_failed:
        seconds = situation.seen.service.spec.rollout.progress_deadline_seconds
        causes = listed([trouble.message for trouble in situation.passing])
        return Trouble(
            "ProgressDeadlineExceeded",
            f"revision {rollout.target} made no progress for {seconds} s"
            + (f": {causes}" if causes else "; see its pods")
            + "; change the spec, or take it back",
        )
    if rollout.is_canary and rollout.cramped:
        return Trouble(
            "CanaryNeedsSurge",
            f"pool {', '.join(rollout.cramped)} has no room for a worker of each revision: set "
            "its rollout.maxSurge to 1, or remove rollout.weight",
        )
    final = next((trouble for trouble in situation.passing if trouble.reason in FINAL), None)
    return final or _stuck_gateways(situation)


def _stuck_gateways(situation: Situation) -> Trouble | None:
    """Old workers wait for new gateways, and those do not come."""
    gateways = situation.gateways
    if gateways is None or not gateways.stuck or not _gateways_are_due(situation):
        return None
    causes = listed([gateways.stuck, *(trouble.message for trouble in situation.passing)])
    return Trouble("GatewaysStuck", f"{_gateways_new(gateways)}: {causes}")


def _progressing(situation: Situation, stalled: Verdict) -> Verdict:
    kind, rollout = "Progressing", situation.rollout
    if stalled.status == "True":
        return Verdict(kind, "False", stalled.reason, stalled.message)
    if not situation.model.ready:
        return Verdict(kind, "True", situation.model.reason, situation.model.message)
    if not rollout.over:
        return _rolling(situation)
    short = [pool for pool in rollout.pools if num_serving(pool) < pool.desired]
    if short:
        counts = [f"{p.name}: {num_serving(p)} of {p.desired} workers are ready" for p in short]
        return Verdict(kind, "True", "WorkersStarting", listed(counts))
    draining = [pod.name for pod in situation.seen.workers if pod.drain_since is not None]
    if draining:
        return Verdict(kind, "True", "Draining", f"{listed(draining)} finish what they have")
    gateways = situation.gateways
    if gateways is not None and _gateways_are_due(situation):
        reason = "GatewaysUpdating" if gateways.ready else "GatewaysStarting"
        return Verdict(kind, "True", reason, _gateways_new(gateways))
    return Verdict(kind, "False", "Complete", f"revision {rollout.target} is complete")


def _rolling(situation: Situation) -> Verdict:
    kind, rollout = "Progressing", situation.rollout
    counts = listed(
        [
            f"{pool.name}: {pool.available(rollout.target)} of {pool.desired} workers are new"
            for pool in rollout.pools
            if not pool.removed
        ]
    )
    text = f"revision {rollout.target} replaces {rollout.stable}; {counts}"
    if situation.seen.service.spec.rollout.paused:
        return Verdict(kind, "False", "Paused", f"rollout.paused: {text}")
    if situation.revision.since is None:
        share = f"{rollout.weight}% of new requests go to revision {rollout.target}"
        return Verdict(kind, "False", "Canary", f"{share}; remove rollout.weight to go on")
    if stage_of(rollout) is Stage.PAIR:
        return Verdict(kind, "True", "FirstPair", text)
    if situation.gateways is None or not _gateways_are_due(situation):
        return Verdict(kind, "True", "Replacing", text)
    text = f"{text}; {_gateways_new(situation.gateways)}"
    full = all(pool.available(rollout.target) >= pool.desired for pool in rollout.pools)
    return Verdict(kind, "True", "GatewaysUpdating" if full else "Replacing", text)


def _degraded(situation: Situation) -> Verdict:
    if not situation.passing:
        return Verdict("Degraded", "False", "AsExpected")
    text = listed([trouble.message for trouble in situation.passing])
    return Verdict("Degraded", "True", situation.passing[0].reason, text)


def _model_cached(situation: Situation) -> Verdict:
    model = situation.model
    return verdict("ModelCached", model.ready, model.reason, model.message)


def _transport_ready(situation: Situation) -> Verdict:
    kind, profile = "TransportReady", situation.seen.service.spec.transport.profile
    forbidden = [each for each in situation.blocking if each.reason == "ForbiddenByNamespace"]
    # No namespace forbids tcp: then it is the model's cache.
    if forbidden and profile != "tcp":
        return Verdict(kind, "False", "ForbiddenByNamespace", forbidden[0].message)
    if any(map(num_serving, situation.rollout.pools)):
        return Verdict(kind, "True", f"Profile{profile.capitalize()}", f"workers use {profile}")
    return Verdict(kind, "Unknown", "NoWorker", "no worker has registered yet")
