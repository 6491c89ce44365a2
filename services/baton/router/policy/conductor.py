"""Mooncake's conductor: the longest prefix anywhere, fetched where that beats computing.

Algorithm 1 of R. Qin et al., "Mooncake: A KVCache-centric Disaggregated Architecture for LLM
Serving" (2024; FAST 2025), in seconds:

    ttft(p) = queue(p) + min(compute from p's own prefix,
                             compute from the longest prefix anywhere + its transfer to p)
    p = argmin ttft, d = argmin tpot

There a fetch is considered when the longest prefix is `kvcache_balancing_threshold` times the own;
here the two times are compared. Whoever fetches holds the prefix too, so hot ones spread by
themselves. Rejecting what misses its objective is the gateway's part (`gateway.waiting`).
"""

from __future__ import annotations

from collections.abc import Mapping

from baton.core.settings import RouterSettings
from baton.router import forecast, peer_fetch
from baton.router.columns import Columns, Rows
from baton.router.policy.base import Policy, RequestView, Scores


class Conductor(Policy):
    """See the module. Tiers below the device count in full, as in Mooncake's pooled cache."""

    name = "conductor"
    needs_overlap = True
    tie_share = 0.01

    def __init__(self, settings: RouterSettings) -> None:
        del settings

    def prefill_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        scores = forecast.ttft_s(view, columns, rows)
        saved = _saved_s(view, columns, rows)
        return scores if saved is None else scores - saved

    def decode_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        return forecast.tpot_s(view, columns, rows)

    def fetch_from(self, view: RequestView, columns: Columns, rows: Rows, row: int) -> int | None:
        return peer_fetch.best_peer(view, columns, rows, row)

    def terms(self, view: RequestView, columns: Columns, rows: Rows) -> Mapping[str, Scores]:
        terms = {
            "prefill_queue_s": columns.queue_s[rows],
            "prefill_compute_s": forecast.compute_s(view, columns, rows),
            "decode_step_s": forecast.tpot_s(view, columns, rows),
        }
        if (saved := _saved_s(view, columns, rows)) is not None:
            terms["prefill_fetched_s"] = -saved
        return terms


def _saved_s(view: RequestView, columns: Columns, rows: Rows) -> Scores | None:
    """By a fetch; None when nobody has anything."""
    tiers = forecast.cached_by_tier(view, rows)
    return None if tiers is None else peer_fetch.saved_s(view, tiers, columns, rows)
