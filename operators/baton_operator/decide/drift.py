"""Whether an object still says what was applied, in spite of what the API server makes of it.

The server adds defaults and drops what is empty, it writes quantities its own way (0.5 becomes
500m), and other managers may own further fields: all that is no drift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from baton_operator.types.scalars import amount

LIST_KEYS = ("name", "containerPort", "port", "uid", "topologyKey", "mountPath", "type", "key")
"""Fields that tell the items of a list apart, as far as the lists here have such a field."""


def says(live: Any, applied: Any) -> bool:
    """Whether `live` has everything of `applied`."""
    if live == applied:
        return True
    if isinstance(applied, Mapping):
        if not isinstance(live, Mapping):
            return _is_empty(applied) and live is None
        return all(says(live.get(key), value) for key, value in applied.items())
    if isinstance(applied, str) or not isinstance(applied, Sequence):
        return _same(live, applied)
    if not isinstance(live, Sequence) or isinstance(live, str):
        return _is_empty(applied) and live is None
    return _has_items(live, applied)


def _has_items(live: Sequence[Any], applied: Sequence[Any]) -> bool:
    key = _key(live, applied)
    if key is None:
        return len(live) == len(applied) and all(map(says, live, applied))
    found = {item[key]: item for item in live}
    return all(item[key] in found and says(found[item[key]], item) for item in applied)


def _key(live: Sequence[Any], applied: Sequence[Any]) -> str | None:
    """A field by which each item of both lists is unique."""
    for key in LIST_KEYS:
        if all(_unique(items, key) for items in (live, applied)):
            return key
    return None


def _unique(items: Sequence[Any], key: str) -> bool:
    if not all(isinstance(item, Mapping) and key in item for item in items):
        return False
    values = [item[key] for item in items]
    return all(isinstance(value, str | int) for value in values) and len(set(values)) == len(values)


def _same(live: Any, applied: Any) -> bool:
    if live is None:
        return _is_empty(applied)
    try:
        return amount(str(live)) == amount(str(applied))
    except (ValueError, ArithmeticError):
        return False


def _is_empty(value: Any) -> bool:
    """What the server leaves out of what it stores."""
    if isinstance(value, Mapping):
        return all(_is_empty(each) for each in value.values())
    return value is None or value is False or value in ("", 0) or value == []
