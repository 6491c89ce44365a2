"""How long a request would take on each worker, by what the workers were seen to do.

Formulas, with the columns' names:

    queue_s  = queued tokens * prefill_s_per_token + prefill_base_s
    compute  = tokens * prefill_s_per_token - cached blocks * block_compute_s
    ttft     = queue_s + compute
    tpot     = step_s + tokens * step_s_per_token + (choices - 1) * step_s_per_sequence
    transfer = tokens * token_transfer_s - blocks on the decode worker's device * block_transfer_s

The queue counts what this gateway has sent since the newest report. A worker that has measured
nothing is taken to be like its pool, see `planner.rates`.
"""

from __future__ import annotations

import numpy as np

from baton.router.columns import Array, Columns, Rows
from baton.router.policy.base import RequestView
from baton.router.pool import Pool


def cached_by_tier(view: RequestView, rows: Rows) -> tuple[Array, ...] | None:
    """Blocks of the prompt on each worker's device, host and disk, the lower tiers only where
    somebody has any there; None when nobody has any at all. Floats: times they are multiplied with.
    """
    overlap = view.overlap
    if overlap is None or not overlap.best:
        return None
    device, host, disk = overlap.device[rows], overlap.host, overlap.disk
    # Mostly there are none, which is seen faster than added.
    if not np.count_nonzero(host) and not np.count_nonzero(disk):
        return (device.astype(np.float64),)
    return tuple(tier.astype(np.float64) for tier in (device, host[rows], disk[rows]))


def cached_blocks(view: RequestView, rows: Rows) -> Array | None:
    """The same of all tiers together."""
    tiers = cached_by_tier(view, rows)
    return None if tiers is None else sum(tiers[1:], tiers[0])


def compute_s(view: RequestView, columns: Columns, rows: Rows) -> Array:
    """For what no tier of the worker's has of the prompt."""
    seconds: Array = view.num_tokens * columns.prefill_s_per_token[rows]
    cached = cached_blocks(view, rows)
    if cached is not None:
        seconds -= cached * columns.block_compute_s[rows]
    return seconds


def ttft_s(view: RequestView, columns: Columns, rows: Rows) -> Array:
    """From the dispatch to the first token, on workers that compute the prompt."""
    seconds = compute_s(view, columns, rows)
    seconds += columns.queue_s[rows]
    return seconds


def tpot_s(view: RequestView, columns: Columns, rows: Rows) -> Array:
    """Of a decode step with everything that is there or on its way, and this request."""
    # Over its life, half of the output is there.
    tokens = view.num_tokens + view.expected_output // 2
    seconds: Array = tokens * columns.step_s_per_token[rows]
    seconds += columns.step_s[rows]
    if view.num_choices > 1:
        seconds += (view.num_choices - 1) * columns.step_s_per_sequence[rows]
    return seconds


def transfer_s(view: RequestView, columns: Columns, rows: Rows) -> Array:
    """For the blocks that a handoff to each decode worker has to move."""
    seconds: Array = view.num_tokens * columns.token_transfer_s[rows]
    if view.overlap is not None and view.overlap.best:
        seconds -= view.overlap.device[rows] * columns.block_transfer_s[rows]
    return seconds


def best_ttft_s(view: RequestView, pool: Pool) -> float | None:
    """The shortest time to the first token that any worker offers, whether it has room or not.

    None while nobody is there, or nothing has been measured: a guess rejects nobody.
    """
    columns = pool.columns
    best: float | None = None
    for group in pool.groups(view.model):
        if not len(group.generating):
            continue
        # A pair's first token does not wait for the transfer.
        paired = len(group.prefill) > 0 and not view.alone
        for rows in (group.both, group.prefill) if paired else (group.generating,):
            if not len(rows):
                continue
            seconds = ttft_s(view, columns, rows.index)
            measured = columns.prefill_is_measured[rows.index]
            if measured.any():
                least = float(np.min(seconds, where=measured, initial=np.inf))
                best = least if best is None else min(best, least)
    return best
