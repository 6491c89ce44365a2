"""Any worker."""

from __future__ import annotations

import numpy as np

from baton.router.columns import Columns, Rows
from baton.router.policy.base import Policy, RequestView, Scores


class Random(Policy):
    """All scores are equal, and ties are drawn. A baseline; herds never, balances on average."""

    name = "random"

    def prefill_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        del view
        return np.zeros_like(columns.placed_at[rows])

    def decode_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        del view
        return np.zeros_like(columns.placed_at[rows])
