"""Cached blocks that a worker could get from another one faster than compute them.

    missing = blocks of the longest cached prefix anywhere, less the worker's own
    saved   = missing * block_fetch_gain_s, where block_fetch_gain_s
            = max(0, block_compute_s - FETCH_PRICE * block_transfer_s)

That is what a fetch is worth; the first token comes sooner by more, since there the transfer counts
once. A fetch replicates what is asked for often, so it needs no plan of its own.
"""

from __future__ import annotations

from baton.router import forecast
from baton.router.columns import Array, Columns, Rows
from baton.router.policy.base import RequestView

# Asking a peer and the way into the cache take about so long: no fetch is worth less.
LEAST_GAIN_S = 0.01


def saved_s(view: RequestView, tiers: tuple[Array, ...], columns: Columns, rows: Rows) -> Array:
    """Seconds that each worker saves by fetching, 0 where computing is faster. `tiers` are what
    `forecast.cached_by_tier` says of the workers' own caches."""
    assert view.overlap is not None, "somebody has some"
    own = tiers[0] if len(tiers) == 1 else sum(tiers[1:], tiers[0])
    saved: Array = (view.overlap.best - own) * columns.block_fetch_gain_s[rows]
    return saved


def saved_by(view: RequestView, columns: Columns, row: int) -> float:
    """The same for one worker."""
    return _missing(view, row) * float(columns.block_fetch_gain_s[row])


def shortened_s(view: RequestView, columns: Columns, row: int) -> float:
    """By how much a worker that fetches has its first token sooner."""
    gain_s = float(columns.block_compute_s[row]) - float(columns.block_transfer_s[row])
    return _missing(view, row) * gain_s


def _missing(view: RequestView, row: int) -> int:
    """Blocks that somebody has and this worker has not."""
    overlap = view.overlap
    if overlap is None or not overlap.best:
        return 0
    return int(overlap.best - overlap.device[row] - overlap.host[row] - overlap.disk[row])


def best_peer(view: RequestView, columns: Columns, rows: Rows, row: int) -> int | None:
    """Whom among `rows` the worker `row` had better fetch from, None when it is not worth it."""
    if saved_by(view, columns, row) < LEAST_GAIN_S:
        return None
    total = forecast.cached_blocks(view, rows)
    assert total is not None and view.overlap is not None, "something is saved"
    best = int(total.argmax())
    peer = rows.start + best if isinstance(rows, slice) else int(rows[best])
    # The longest prefix may be held by a worker that takes no part any more.
    has_all = int(total[best]) == view.overlap.best
    return peer if has_all and peer != row else None
