"""The state of a service in one word, for the table that `kubectl get` prints."""

from __future__ import annotations

from collections.abc import Mapping

from baton_operator.decide.report.conditions import Verdict
from baton_operator.decide.rollout.goals import Rollout
from baton_operator.types.status import Phase


def phase_of(found: Mapping[str, Verdict], rollout: Rollout) -> Phase:
    """What needs somebody most comes first. `found`: the verdicts by type."""
    if _holds(found, "Stalled"):
        return "Stalled"
    if not any(pool.workloads for pool in rollout.pools):
        return "Pending"
    if not _holds(found, "Ready"):
        return "Degraded" if _holds(found, "Degraded") else "Starting"
    if not rollout.over:
        return "Updating"
    return "Degraded" if _holds(found, "Degraded") else "Ready"


def _holds(found: Mapping[str, Verdict], type: str) -> bool:
    return type in found and found[type].status == "True"
