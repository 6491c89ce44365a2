"""How numbers and times are written in a status."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
MAX_MESSAGE = 4096
"""Of a condition; the schema's bound."""


def time_text(unix_s: float) -> str:
    """RFC 3339, whole seconds, as Kubernetes writes times."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unix_s(text: str) -> float:
    """Of RFC 3339. Raises ValueError for anything else."""
    return datetime.fromisoformat(text).timestamp()


def size_text(done: int, total: int | None) -> str:
    """Of a download: `3.2 of 15.3 GiB (20%)`."""
    power = 0
    while max(done, total or 0) >= 1024 ** (power + 1) and power + 1 < len(_UNITS):
        power += 1
    scaled = f"{done / 1024**power:.1f}"
    if not total:
        return f"{scaled} {_UNITS[power]}"
    return f"{scaled} of {total / 1024**power:.1f} {_UNITS[power]} ({done * 100 // total}%)"


def listed(texts: Sequence[str], most: int = 3) -> str:
    """The first few, and how many more there are."""
    shown = "; ".join(texts[:most])
    return shown if len(texts) <= most else f"{shown}; and {len(texts) - most} more"


def cut(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"
