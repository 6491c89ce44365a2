"""The garbage collector of a process that serves: rare young passes, and short full ones."""

from __future__ import annotations

import gc

# Objects made and not freed since the last young pass. What a request makes goes with it, so the
# count only gets here by what hundreds of open requests hold; at 700 (the default) passes over
# those were 3 % of a short request, and 5 % of a handoff's messages.
_YOUNG = 10_000


def settle_gc() -> None:
    """Call once, when all that stays is loaded: it is collected, then never looked at again.

    A full pass over the modules would stop every stream for 50 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG)
