"""Versions of the protocols between Baton's processes. Both ends must share one.

A change that an older peer would misread raises PROTOCOL_MAX; dropping support for old peers raises
PROTOCOL_MIN.
"""

from __future__ import annotations

# 2: on streams of our own (1 was on gRPC's).
PROTOCOL_MIN = 2
PROTOCOL_MAX = 2


def common_version(peer_min: int, peer_max: int) -> int | None:
    """The newest version that both sides speak, or None."""
    version = min(PROTOCOL_MAX, peer_max)
    return version if version >= max(PROTOCOL_MIN, peer_min) else None
