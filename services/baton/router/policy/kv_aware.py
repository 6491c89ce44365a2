"""The default: the least seconds, by what workers' caches hold and by how fast they are.

In seconds, with the names of columns (`router.columns`) and settings (`router.*`):

    compute  = tokens * prefill_s_per_token - credited blocks * block_compute_s
             - what fetching from a peer saves (`router.peer_fetch`)
    prefill  = queue_weight * queue_s + compute * (1 + interleaved + stall_weight * stalled)
    decode   = decode_weight * tpot + occupancy_weight * occupancy
    transfer = as `router.forecast` has it, as tpot

Credited blocks are those cached on the device, and `host_credit` and `disk_credit` of those on the
lower tiers. The device's count less the longer the worker's queue is, relative to the shortest
(`overlap_decay`). A second in a queue costs the request alone, a second of compute whoever comes
next, too: so siblings of a burst wait for the first one's prefix (`queue_weight`). What decodes on
a worker makes each step of a prompt longer there (`interleaved`), and stands still until the
prompt's end (`stall_weight`). Occupancy spreads sequences also where another one costs the others
no time, and prompts that nobody has to where the cache has room.
"""

from __future__ import annotations

from collections.abc import Mapping

from baton.core.settings import RouterSettings
from baton.router import forecast, peer_fetch
from baton.router.columns import Array, Columns, Rows
from baton.router.policy.base import Policy, RequestView, Scores


class KvAware(Policy):
    """See the module. A prefix counts for who computes, never for who only decodes."""

    name = "kv_aware"
    needs_overlap = True
    tie_share = 0.01

    def __init__(self, settings: RouterSettings) -> None:
        self.temperature = settings.temperature
        self._decay = settings.overlap_decay
        self._host_credit = settings.host_credit
        self._disk_credit = settings.disk_credit
        self._decode_weight = settings.decode_weight
        self._queue_weight = settings.queue_weight
        self._stall_weight = settings.stall_weight
        self._occupancy_weight = settings.occupancy_weight
        self._fetches = settings.fetch

    def prefill_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        scores: Scores = view.num_tokens * columns.prefill_s_per_token[rows]
        tiers = forecast.cached_by_tier(view, rows)
        if tiers is not None:
            credited = self._credited(view, columns, rows, tiers)
            scores -= credited * columns.block_compute_s[rows]
            if self._fetches:
                scores -= peer_fetch.saved_s(view, tiers, columns, rows)
        scores += scores * self._stall(columns, rows)
        scores += self._queue_weight * columns.queue_s[rows]
        return scores

    def decode_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        scores = forecast.tpot_s(view, columns, rows)
        scores *= self._decode_weight
        scores += self._occupancy_s(columns, rows)
        return scores

    def transfer_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        return forecast.transfer_s(view, columns, rows)

    def fetch_from(self, view: RequestView, columns: Columns, rows: Rows, row: int) -> int | None:
        return peer_fetch.best_peer(view, columns, rows, row) if self._fetches else None

    def terms(self, view: RequestView, columns: Columns, rows: Rows) -> Mapping[str, Scores]:
        compute = view.num_tokens * columns.prefill_s_per_token[rows]
        terms = {
            "prefill_queue_s": self._queue_weight * columns.queue_s[rows],
            "prefill_compute_s": compute,
        }
        left = compute
        tiers = forecast.cached_by_tier(view, rows)
        if tiers is not None:
            credited = self._credited(view, columns, rows, tiers)
            terms["prefill_cached_s"] = -(credited * columns.block_compute_s[rows])
            left = left + terms["prefill_cached_s"]
            if self._fetches:
                terms["prefill_fetched_s"] = -peer_fetch.saved_s(view, tiers, columns, rows)
                left = left + terms["prefill_fetched_s"]
        terms["prefill_stall_s"] = left * self._stall(columns, rows)
        terms["decode_step_s"] = self._decode_weight * forecast.tpot_s(view, columns, rows)
        terms["decode_occupancy_s"] = self._occupancy_s(columns, rows)
        terms["transfer_s"] = self.transfer_scores(view, columns, rows)
        return terms

    def _stall(self, columns: Columns, rows: Rows) -> Array:
        """What those that run add to each second of compute."""
        share: Array = columns.interleaved[rows] + self._stall_weight * columns.stalled[rows]
        return share

    def _occupancy_s(self, columns: Columns, rows: Rows) -> Array:
        occupancy, weight = columns.occupancy[rows], self._occupancy_weight
        # The default costs nothing.
        return occupancy if weight == 1 else weight * occupancy

    def _credited(
        self, view: RequestView, columns: Columns, rows: Rows, tiers: tuple[Array, ...]
    ) -> Array:
        """Cached blocks as far as they count."""
        blocks = tiers[0]
        if self._decay:
            # Queues in units of this request, above the shortest.
            queued = columns.queued_tokens[rows]
            excess = (queued - queued.min()) / view.num_tokens
            blocks = blocks / (1 + self._decay * excess)
        for tier, credit in zip(tiers[1:], (self._host_credit, self._disk_credit), strict=False):
            blocks = blocks + credit * tier
        return blocks
