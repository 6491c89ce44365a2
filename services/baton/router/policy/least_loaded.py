"""The worker with the least to do."""

from __future__ import annotations

import numpy as np

from baton.router.policy.base import RequestView, Scores
from baton.router.pool import Columns, Rows


class LeastLoaded:
    """Prefill: steps of queued prompt tokens. Decode: share of the batch plus share of the pool.

    Both are relative to the worker's own capacity, so unequal workers compare.
    """

    name = "least_loaded"

    def prefill_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        tokens = columns.queued_prefill_tokens[rows] + columns.unreported_tokens[rows]
        return (tokens + view.num_tokens) / columns.max_batch_tokens[rows]

    def decode_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        # Reports know of other gateways' sequences, `inflight` of those still on their way.
        reported = columns.num_running[rows] + columns.num_waiting[rows]
        sequences = np.maximum(columns.inflight[rows], reported) + view.num_choices
        num_blocks = np.maximum(columns.num_blocks[rows], 1)
        blocks = num_blocks - columns.free_blocks[rows] + columns.booked_blocks[rows]
        scores: Scores = sequences / columns.max_sequences[rows] + blocks / num_blocks
        return scores
