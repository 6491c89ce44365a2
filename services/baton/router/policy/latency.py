"""Predicted latency against its objective.

    prefill = cost(ttft / ttft_slo_s), decode = cost(tpot / tpot_slo_s)
    cost(x) = x + MISS * max(0, x - 1)

So a worker that keeps both objectives goes before one that misses either, and what misses is spread
by how much. Compare llm-d's latency predictor, which scores the headroom that is left.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from baton.core.settings import RouterSettings
from baton.router import forecast
from baton.router.columns import Columns, Rows
from baton.router.policy.base import Policy, RequestView, Scores

# What time beyond the objective weighs: more than anything that can be gained below it elsewhere.
MISS = 10.0


class Latency(Policy):
    """See the module. Predictions are `router.forecast`'s."""

    name = "latency"
    needs_overlap = True
    tie_share = 0.01

    def __init__(self, settings: RouterSettings) -> None:
        self._ttft_slo_s = settings.ttft_slo_s
        self._tpot_slo_s = settings.tpot_slo_s

    def prefill_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        return _cost(forecast.ttft_s(view, columns, rows) / self._ttft_slo_s)

    def decode_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        return _cost(forecast.tpot_s(view, columns, rows) / self._tpot_slo_s)

    def transfer_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        # The first token does not wait for it, the second one does.
        return forecast.transfer_s(view, columns, rows) / self._ttft_slo_s

    def terms(self, view: RequestView, columns: Columns, rows: Rows) -> Mapping[str, Scores]:
        ttft = forecast.ttft_s(view, columns, rows) / self._ttft_slo_s
        tpot = forecast.tpot_s(view, columns, rows) / self._tpot_slo_s
        return {
            "prefill_ttft_share": ttft,
            "prefill_miss": _cost(ttft) - ttft,
            "decode_tpot_share": tpot,
            "decode_miss": _cost(tpot) - tpot,
            "transfer_share": self.transfer_scores(view, columns, rows),
        }


def _cost(share: Scores) -> Scores:
    cost: Scores = share + MISS * np.maximum(0.0, share - 1.0)
    return cost
