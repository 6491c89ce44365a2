"""Which share of new requests each revision is to get, where the user says so."""

from __future__ import annotations

from baton_operator.actions import Action, SetTraffic
from baton_operator.decide.rollout.goals import Rollout
from baton_operator.seen import Signals


def weights(rollout: Rollout) -> dict[str, float]:
    """Shares by revision, together 1; empty: by ready capacity.

    Only with a `weight`, and only between revisions that can serve: one that has no worker of some
    role gets nothing. The rest is the stable revision's; only where that cannot serve do those
    that were given up share it, by what they can do together.
    """
    if rollout.weight is None or rollout.over or rollout.target is None:
        return {}
    stable = rollout.stable
    serves = stable is not None and pairs(rollout, stable) > 0
    old = [stable] if stable is not None and serves else rollout.others
    capacity = {r: pairs(rollout, r) for r in old}
    capacity = {revision: count for revision, count in capacity.items() if count}
    if not pairs(rollout, rollout.target):
        new_share = 0.0
    elif capacity:
        new_share = rollout.weight / 100
    else:
        new_share = 1.0
    whole = sum(capacity.values())
    shares = {r: round((1 - new_share) * count / whole, 4) for r, count in capacity.items()}
    if new_share:
        shares[rollout.target] = new_share
    return {revision: share for revision, share in sorted(shares.items()) if share}


def pairs(rollout: Rollout, revision: str) -> int:
    """Complete sets of workers that serve; 0 when the revision lacks one of its roles."""
    ready = {"prefill": 0, "decode": 0, "any": 0}
    for pool in rollout.pools:
        found = pool.of(revision)
        if found is not None:
            ready[found.role] += found.available
    return ready["any"] + min(ready["prefill"], ready["decode"])


def set_traffic(rollout: Rollout, signals: Signals | None) -> list[Action]:
    """The split, if the gateways have another one."""
    if signals is None:
        return []
    wanted = weights(rollout)
    return [] if wanted == dict(signals.traffic) else [SetTraffic(wanted)]
