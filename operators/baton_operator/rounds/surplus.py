"""What server-side apply leaves in a status: fields that another has written there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def surplus(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON merge patch (RFC 7396) that takes out of `live` what is not in `wanted`.

    `live` is what an apply of `wanted` has answered: the rest of it is as wanted. A list goes as a
    whole.
    """
    patch: dict[str, Any] = {}
    for name, value in live.items():
        if name not in wanted:
            patch[name] = None
        elif isinstance(value, Mapping) and isinstance(wanted[name], Mapping):
            inner = surplus(value, wanted[name])
            if inner:
                patch[name] = inner
        elif isinstance(value, list) and value != wanted[name]:
            patch[name] = wanted[name]
    return patch
