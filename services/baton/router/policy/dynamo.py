"""The published cost function of NVIDIA Dynamo's KV router, to compare with and to move from.

    cost = prefill_load_scale * max(prefill blocks - cached blocks, 0) + decode blocks

Prefill blocks are those still to be computed on the worker, this prompt's included; cached ones are
of this prompt, `host_credit` and `disk_credit` of those on lower tiers; decode blocks are those in
use or booked, this prompt's included. Its defaults: prefill_load_scale 1, no decay of the credit
and temperature 0. On a decode worker the first term is none.

Sources: ai-dynamo/dynamo, docs/components/router (router-concepts, router-configuration) and
lib/kv-router/src/scheduling (selector, config). There each router keeps count of blocks itself,
with those of one prefix once; here they are as the workers report them, which comes to the same.
Its queue, which holds requests while all workers have 16 steps' prompts to compute, is
never longer than the one that our workers' `queue_room` allows, and left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from baton.core.settings import RouterSettings
from baton.router.columns import Columns, Rows
from baton.router.policy.base import Policy, RequestView, Scores


class Dynamo(Policy):
    """See the module. Scores are blocks."""

    name = "dynamo"
    needs_overlap = True

    def __init__(self, settings: RouterSettings) -> None:
        self.temperature = settings.temperature
        self._host_credit = settings.host_credit
        self._disk_credit = settings.disk_credit

    def prefill_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        raw = (columns.queued_tokens[rows] + view.num_tokens) / columns.block_size[rows]
        overlap = view.overlap
        if overlap is None or not overlap.best:
            return raw
        credit = (
            overlap.device[rows]
            + self._host_credit * overlap.host[rows]
            + self._disk_credit * overlap.disk[rows]
        )
        scores: Scores = np.maximum(raw - credit, 0.0)
        return scores

    def decode_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        own = -(-view.num_tokens // columns.block_size[rows])
        scores: Scores = columns.active_blocks[rows] + own
        return scores

    def terms(self, view: RequestView, columns: Columns, rows: Rows) -> Mapping[str, Scores]:
        return {
            "prefill_blocks": self.prefill_scores(view, columns, rows),
            "decode_blocks": self.decode_scores(view, columns, rows),
        }
