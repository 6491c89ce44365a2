"""How much gateways need to hear of a new load. Pure."""

from __future__ import annotations

from enum import Enum, auto

from baton.v1 import session_pb2

# Averages, and a count of reports: with every step they are others.
_RESTLESS = ("sequence_number", "prefill_tokens_per_s", "prefill_step_s", "step_s")
# What changes with every step as long as all goes on as before.
_GRADUAL = (
    "free_blocks",
    "cached_blocks",
    "reserved_blocks",
    "pinned_blocks",
    "fetched_blocks",
    "promotions",
    "promotion_timeouts",
    "tiers",
    "links",
)


class LoadNews(Enum):
    """What a load says that the one before did not.

    NONE: nothing. GRADUAL: how full a worker is that goes on as before. SUDDEN: anything else.
    """

    NONE = auto()
    GRADUAL = auto()
    SUDDEN = auto()


def load_news(old: session_pb2.Load | None, new: session_pb2.Load) -> LoadNews:
    """`new` against `old`, None before the first one."""
    if old is None:
        return LoadNews.SUDDEN
    before, now = session_pb2.Load(), session_pb2.Load()
    before.CopyFrom(old)
    now.CopyFrom(new)
    if before.leaving_in_ms and now.leaving_in_ms:
        # Time passes; that it is limited is news, and that it no longer is.
        now.leaving_in_ms = before.leaving_in_ms
    _clear(_RESTLESS, before, now)
    if before == now:
        return LoadNews.NONE
    _clear(_GRADUAL, before, now)
    return LoadNews.GRADUAL if before == now else LoadNews.SUDDEN


def _clear(names: tuple[str, ...], *loads: session_pb2.Load) -> None:
    for load in loads:
        for name in names:
            load.ClearField(name)
