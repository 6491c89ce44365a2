"""Amounts of memory as people write them."""

from __future__ import annotations

import re

from baton.core.errors import ConfigError

_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{letter}ib": 1024 ** (i + 1) for i, letter in enumerate("kmgt")}
_UNITS |= {f"{letter}b": 1000 ** (i + 1) for i, letter in enumerate("kmgt")}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str, name: str) -> int:
    """Bytes in `512MiB`, `2GiB`, `1.5GB` or `1048576`. Raises ConfigError naming `name`."""
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ConfigError(f"{name} {text!r}: expected a size like 512MiB, 2GiB or 1.5GB")
    return int(float(match[1]) * unit)
