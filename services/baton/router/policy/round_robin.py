"""Workers in turn."""

from __future__ import annotations

from baton.router.columns import Columns, Rows
from baton.router.policy.base import Policy, RequestView, Scores


class RoundRobin(Policy):
    """The worker whose last placement is longest ago is next, so changes of the pool need no care.

    Blind to load, apart from workers that take nothing now.
    """

    name = "round_robin"

    def prefill_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        del view
        return columns.placed_at[rows]

    def decode_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        del view
        return columns.placed_at[rows]
