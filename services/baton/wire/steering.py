"""What a worker is asked when it is to be emptied."""

from __future__ import annotations

from baton.v1 import worker_pb2

_MAX_MS = 2**32 - 1


def drain_request(reason: str, within_s: float) -> worker_pb2.DrainRequest:
    """Take no new work; the machine goes away in so many seconds, or never soon (0)."""
    return worker_pb2.DrainRequest(reason=reason, within_ms=min(_MAX_MS, int(within_s * 1000)))
