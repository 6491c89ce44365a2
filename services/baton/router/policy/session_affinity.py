"""The same worker for the same conversation or user, unless it has far more to do than others.

Consistent hashing with bounded loads (V. Mirrokni, M. Thorup, M. Zadimoghaddam, 2018), by highest
random weight (D. Thaler, C. Ravishankar, 1998) in place of a ring: each worker's weight is a hash
of (affinity, worker), the highest one below the bound wins. When a worker comes or goes, only those
that it wins or had move; every gateway computes the same.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from baton.core.settings import RouterSettings
from baton.router.columns import Columns, Rows
from baton.router.policy.base import RequestView, Scores
from baton.router.policy.least_loaded import LeastLoaded

_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
# Anyone within the bound goes before anyone beyond it.
_BEYOND = 2.0
# Up to so many sequences nobody counts as loaded, however idle the others are.
_LEAST_BOUND = 4


class SessionAffinity(LeastLoaded):
    """Requests without an affinity go to the least loaded worker.

    A worker is within the bound while it has at most `affinity_load_bound` times the mean number of
    sequences, this one included.
    """

    name = "session_affinity"

    def __init__(self, settings: RouterSettings) -> None:
        self._load_bound = settings.affinity_load_bound

    def prefill_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        if not view.affinity:
            return super().prefill_scores(view, columns, rows)
        return self._scores(view, columns, rows)

    def decode_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        if not view.affinity:
            return super().decode_scores(view, columns, rows)
        return self._scores(view, columns, rows)

    def _scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        """At most 1 by weight for those within the bound, above for others."""
        scores: Scores = 1.0 - _weights(view.affinity, columns.id_hash[rows])
        sequences = columns.sequences[rows]
        mean = (float(sequences.sum()) + view.num_choices) / len(sequences)
        bound = max(_LEAST_BOUND, math.ceil(self._load_bound * mean))
        scores += np.where(sequences + view.num_choices > bound, _BEYOND, 0.0)
        return scores


def _weights(affinity: str, id_hashes: Scores) -> Scores:
    """In [0, 1): SplitMix64's finalizer of both hashes."""
    digest = hashlib.blake2b(affinity.encode(), digest_size=8).digest()
    mixed = id_hashes ^ np.uint64(int.from_bytes(digest, "little"))
    mixed = (mixed ^ (mixed >> _SHIFTS[0])) * _MULTIPLIERS[0]
    mixed = (mixed ^ (mixed >> _SHIFTS[1])) * _MULTIPLIERS[1]
    mixed ^= mixed >> _SHIFTS[2]
    weights: Scores = mixed / np.float64(2**64)
    return weights
