"""Load reports are believed as far as the worker's own lease allows (pure).

A number that cannot be would spoil the router's arithmetic for all workers. A lie that could be
true is answered by what the gateway knows itself: what it has placed there and has not ended counts
whatever the worker says.
"""

from __future__ import annotations

import math

from baton.v1 import common_pb2, session_pb2

_SECONDS_AND_RATES = ("prefill_tokens_per_s", "step_s", "prefill_step_s")
_BLOCKS = ("free_blocks", "cached_blocks", "reserved_blocks", "quarantined_blocks", "pinned_blocks")
# A step that takes longer than any client waits.
_MAX_STEP_S = 86400.0
# More than any accelerator computes, or any fabric carries.
_MAX_RATE = 1e15


def repair(load: session_pb2.Load, capacity: common_pb2.Capacity) -> list[str]:
    """Make it a report that could be true, in place: unknown rates become 0, blocks the pool's.

    Returns the fields that could not.
    """
    wrong: list[str] = []
    for name in _SECONDS_AND_RATES:
        most = _MAX_RATE if name == "prefill_tokens_per_s" else _MAX_STEP_S
        if not _could_be(getattr(load, name), most):
            setattr(load, name, 0.0)
            wrong.append(name)
    for name in _BLOCKS:
        if getattr(load, name) > capacity.num_blocks:
            setattr(load, name, capacity.num_blocks)
            wrong.append(name)
    for link in load.links:
        if not _could_be(link.bytes_per_s, _MAX_RATE):
            link.bytes_per_s = 0.0
            wrong.append("links.bytes_per_s")
    return wrong


def _could_be(value: float, most: float) -> bool:
    return math.isfinite(value) and 0.0 <= value <= most
