"""Kinds that the operator's role does not let it watch: what it must not decide by.

What is not seen looks as if it were not there. Where that is a part of what a service's size and
revisions are read off, nothing of the service is changed until the right is back. Anything else is
left as it is, and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Iterable

from baton_operator import kinds, names
from baton_operator.decide.troubles import Trouble
from baton_operator.seen import LEADER_WORKER_SET, Seen

DECIDED_BY = frozenset(
    {names.POOL_KIND, "Deployment", LEADER_WORKER_SET, kinds.POD.kind, "Job", "ConfigMap"}
)


def blinded(seen: Seen) -> Trouble | None:
    """Why the service has to stay as it is; None: all is seen that counts."""
    return _missing(seen.unwatched & DECIDED_BY)


def left_alone(seen: Seen, wanted: Iterable[str]) -> Trouble | None:
    """Of the kinds that the service wants, those that are neither made nor kept."""
    return _missing(seen.unwatched.intersection(wanted))


def _missing(unwatched: Iterable[str]) -> Trouble | None:
    plurals = sorted(kinds.by_name(kind).plural for kind in unwatched)
    if not plurals:
        return None
    return Trouble(
        "RightsMissing",
        f"the operator may not list and watch {', '.join(plurals)}: give its role these rights, as "
        "the chart's has them",
    )
