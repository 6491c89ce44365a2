"""What the round goes by: everything that is concluded from `Seen` before anything is decided."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from baton.core.errors import ConfigError
from baton_operator import kinds, names
from baton_operator.decide.model_lookup import ModelState, model_state
from baton_operator.decide.rights import left_alone
from baton_operator.decide.rollout.gateways import Gateways, gateways_of
from baton_operator.decide.rollout.goals import Rollout
from baton_operator.decide.rollout.pool_sizes import pool_states
from baton_operator.decide.rollout.progress import advanced, is_failed, stable_revision
from baton_operator.decide.rollout.revision import input_hash, revision_of
from baton_operator.decide.rollout.workloads import Fleet, fleet_of
from baton_operator.decide.troubles import Trouble, blocking_troubles, passing_troubles
from baton_operator.resources.context import Context, Installation
from baton_operator.resources.pods.model_cache import fetch_job
from baton_operator.resources.pods.worker import worker_template
from baton_operator.resources.shared import children
from baton_operator.seen import Manifest, Seen
from baton_operator.types.status import RevisionStatus


@dataclass(frozen=True, slots=True)
class Situation:
    """One service in one round."""

    seen: Seen
    image: str | None
    default_image: str | None
    """What an unset image means here: the operator's when that was first so, kept since, so that
    another version of the operator changes no running pod."""
    context: Context | None
    """None: manifests cannot be built; then what is there stays as it is."""
    shared: tuple[Manifest, ...]
    """All wanted children but those of revisions and the fetch Job."""
    job: Manifest | None
    """The fetch Job for what the spec names; None: there is nothing to fetch."""
    model: ModelState
    blocking: tuple[Trouble, ...]
    passing: tuple[Trouble, ...]
    fleet: Fleet
    gateways: Gateways | None
    """None: there is no Deployment of them yet."""
    inputs: str
    """What all pods but workers are made from, as a hash; empty without a context."""
    rollout: Rollout
    revision: RevisionStatus = field(default_factory=RevisionStatus)
    """As it is to stand in the status after this round."""

    @property
    def is_failed(self) -> bool:
        """Whether the rollout was given up for want of progress."""
        return self.revision.failed is not None

    @property
    def is_stalled(self) -> bool:
        """Whether workers stay as they are until somebody does something."""
        return bool(self.blocking) or self.model.failed or self.is_failed


def assess(seen: Seen, installation: Installation) -> Situation:
    """Reads everything off; decides nothing but which revision is the target."""
    spec = seen.service.spec
    default_image = seen.service.status.get("defaultImage")
    if spec.image is None and default_image is None:
        default_image = installation.image
    image = spec.image or default_image
    blocking = blocking_troubles(seen, image, installation.redis_address is not None)
    context = Context(seen.service, installation, image) if image else None
    model, shared, job = ModelState(reason="Unknown"), [], None
    unseen = None
    if context is not None:
        job = fetch_job(context) if spec.model.needs_fetch else None
        model = model_state(seen, None if job is None else job["metadata"]["name"])
        context = replace(context, commit=model.commit)
        try:
            wanted = children(context)
            shared = [each for each in wanted if _is_served(each["kind"], seen)]
            unseen = left_alone(seen, (each["kind"] for each in wanted))
            for pool in spec.pools:
                worker_template(context, pool, "none")
        except ConfigError as error:
            blocking = [*blocking, Trouble("PodTemplateInvalid", str(error))]
            context = None
    target = None
    if context is not None and model.ready and not blocking:
        target = revision_of(spec, context.image, model.commit)
    fleet = fleet_of(seen)
    before = RevisionStatus.model_validate(seen.service.status.get("revision") or {})
    inputs = "" if context is None else input_hash(spec, context.image, context.commit)
    gateways = _gateways(seen, shared if context is not None else (), inputs)
    rollout, after = _rollout(seen, fleet, target, before, gateways)
    return Situation(
        seen=seen,
        image=image,
        default_image=default_image,
        context=context,
        shared=tuple(shared),
        job=job,
        model=model,
        blocking=tuple(blocking),
        passing=(*([unseen] if unseen else []), *passing_troubles(seen)),
        fleet=fleet,
        gateways=gateways,
        inputs=inputs,
        rollout=rollout,
        revision=after,
    )


def _gateways(seen: Seen, shared: Iterable[Manifest], inputs: str) -> Gateways | None:
    live = seen.of_kind("Deployment").get(names.gateway(seen.service.name))
    if live is None:
        return None
    wanted = next((each for each in shared if each["kind"] == "Deployment"), None)
    return gateways_of(live, wanted, inputs)


def _rollout(
    seen: Seen,
    fleet: Fleet,
    target: str | None,
    before: RevisionStatus,
    gateways: Gateways | None,
) -> tuple[Rollout, RevisionStatus]:
    wanted = seen.service.spec.rollout
    kept = frozenset(each for each in (target, before.current) if each is not None)
    pools = pool_states(seen, fleet, kept)
    rollout = Rollout(
        pools=pools,
        target=target,
        stable=stable_revision(pools, target, before.current),
        pair_first=wanted.strategy == "PairFirst",
        weight=wanted.weight,
        paused=wanted.paused,
        gateways_rolled=gateways is not None and gateways.rolled,
    )
    failed = is_failed(before, rollout, wanted.progress_deadline_seconds, seen.now_s)
    after = advanced(before, rollout, failed=failed, now_s=seen.now_s)
    return replace(rollout, failed=after.failed is not None), after


def _is_served(kind: str, seen: Seen) -> bool:
    is_there = not kinds.by_name(kind).optional or kind in seen.kinds
    return is_there and kind not in seen.unwatched
