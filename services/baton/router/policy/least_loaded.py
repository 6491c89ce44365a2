"""The worker with the least to do."""

from __future__ import annotations

import numpy as np

from baton.router.columns import Columns, Rows
from baton.router.policy.base import Policy, RequestView, Scores


class LeastLoaded(Policy):
    """Prefill: steps of queued prompt tokens. Decode: share of the batch plus share of the pool.

    Both are relative to the worker's own capacity, so unequal workers compare.
    """

    name = "least_loaded"

    def prefill_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        tokens: Scores = columns.queued_tokens[rows] + view.num_tokens
        return tokens / columns.max_batch_tokens[rows]

    def decode_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        sequences = columns.sequences[rows] + view.num_choices
        blocks = columns.active_blocks[rows] / np.maximum(columns.num_blocks[rows], 1)
        scores: Scores = sequences / columns.max_sequences[rows] + blocks
        return scores
