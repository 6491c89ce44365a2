"""Times that an operator wrote by its own clock, read by a successor whose clock is another one.

One that ran ahead of ours would let us wait for as long as it was ahead: what it says is written
anew. One that ran behind only makes us impatient: a worker that goes drains by itself, and a
rollout that was given up goes on with the next worker that comes.
"""

from __future__ import annotations

# More than clocks that are kept differ by.
MAX_SKEW_S = 60.0


def is_ahead(at_s: float, now_s: float) -> bool:
    """Whether this time can only be of another clock."""
    return at_s > now_s + MAX_SKEW_S
