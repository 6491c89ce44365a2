"""OpenAI's headers about rate limits (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from baton.gateway.http.asgi import Headers
from baton.gateway.keys.caller import Bound, Counted
from baton.store.limits import Level

_NAMED = (Counted.REQUESTS, Counted.TOKENS)


def rate_headers(bounds: Sequence[Bound], levels: Sequence[Level]) -> Headers:
    """For requests and tokens, of the key's and the tenant's limit the one with less left."""
    headers: Headers = []
    for counted in _NAMED:
        shown = [
            (level.left, bound.limit.bound, level.reset_us)
            for bound, level in zip(bounds, levels, strict=True)
            if bound.counted is counted
        ]
        if not shown:
            continue
        left, limit, reset_us = min(shown)
        name = counted.value.encode()
        headers += [
            (b"x-ratelimit-limit-" + name, b"%d" % limit),
            (b"x-ratelimit-remaining-" + name, b"%d" % max(0, left)),
            (b"x-ratelimit-reset-" + name, duration(reset_us).encode()),
        ]
    return headers


def duration(microseconds: int) -> str:
    """As OpenAI writes it: `17ms`, `1.2s`, `6m0s`."""
    ms = math.ceil(microseconds / 1000)
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest_ms = divmod(ms, 60_000)
    seconds = f"{rest_ms / 1000:g}s"
    return f"{minutes}m{seconds}" if minutes else seconds
