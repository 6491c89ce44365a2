"""Why nobody takes a request, for people (pure)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from baton.router.columns import Role
from baton.router.pool import Pool


def shortage(pool: Pool, model: str, foreign: Sequence[int] = ()) -> str:
    """What keeps requests for `model` waiting now, as a sentence without its full stop.

    `foreign` are rows that stay down for their tokenizer.
    """
    columns = pool.columns
    ours = columns.used & (columns.model == pool.intern(model))
    generating = ours & (columns.role != Role.PREFILL)
    is_foreign = np.zeros(len(columns), np.bool_)
    is_foreign[list(foreign)] = True
    num_foreign = int(np.count_nonzero(generating & is_foreign))
    num_down = int(np.count_nonzero(generating & ~columns.up & ~is_foreign))
    num_draining = int(np.count_nonzero(generating & columns.up & columns.draining))
    num_ready = int(np.count_nonzero(generating)) - num_down - num_draining - num_foreign
    if num_ready:
        return f"every worker for model {model!r} is busy ({num_ready} could take it)"
    if num_down or num_draining or num_foreign:
        counts = (
            (num_draining, "draining"),
            (num_down, "not answering"),
            (num_foreign, "of another tokenizer"),
        )
        states = " and ".join(f"{count} {state}" for count, state in counts if count)
        return f"no worker for model {model!r} takes requests: {states}"
    if num_prefill := int(np.count_nonzero(ours)):
        return f"no decode worker for model {model!r} is alive, only prefill workers: {num_prefill}"
    return f"no worker for model {model!r} is alive"
