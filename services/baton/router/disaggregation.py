"""Whether a decode worker should compute a prompt itself: predicted times compared, no threshold.

    alone = queue + compute * (1 + sequences that run there and stand still meanwhile)
    pair  = queue + compute on the prefill worker + transfer of what the decode worker lacks

in seconds of all requests together: computing on a decode worker costs each of its sequences the
time that it takes. So an idle decode worker, or one that holds most of the prompt, computes; a busy
one leaves it to the prefill worker, unless that one's queue, or the link, is slower still.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from baton.router import forecast
from baton.router.columns import Array, Columns, Rows
from baton.router.policy.base import RequestView


class Comparison(NamedTuple):
    """A decode worker that could compute the prompt, the pair that could, and their seconds."""

    alone: int
    alone_s: float
    prefill: int
    decode: int
    pair_s: float

    @property
    def alone_wins(self) -> bool:
        return self.alone_s < self.pair_s


def alone_s(view: RequestView, columns: Columns, rows: Rows) -> Array:
    """What computing the prompt on each decode worker costs it and those that run there."""
    compute_s = forecast.compute_s(view, columns, rows)
    seconds: Array = compute_s * (1 + columns.sequences[rows])
    seconds += columns.queue_s[rows]
    return seconds


def pair_s(view: RequestView, columns: Columns, prefill: int, decode: int) -> float:
    """Until a pair has both the first token and the KV where it decodes."""
    source, target = slice(prefill, prefill + 1), slice(decode, decode + 1)
    seconds = forecast.ttft_s(view, columns, source) + forecast.transfer_s(view, columns, target)
    return float(seconds.item())


def compare(
    view: RequestView,
    columns: Columns,
    rows: Rows,
    prefill: int,
    decode: int,
) -> Comparison | None:
    """The cheapest of the decode workers `rows` that have room, against a pair.

    None while nothing has been measured: then a prefill pool is there to be used.
    """
    if not columns.prefill_is_measured.item(prefill):
        return None
    seconds = alone_s(view, columns, rows)
    seconds += columns.unknown_barrier[rows]
    best = int(seconds.argmin())
    least = seconds.item(best)
    if least == math.inf:
        return None
    row = rows.start + best if isinstance(rows, slice) else int(rows[best])
    return Comparison(row, least, prefill, decode, pair_s(view, columns, prefill, decode))
