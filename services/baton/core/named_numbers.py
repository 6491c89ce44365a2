"""Settings that are a short list of names with numbers: `high=1,normal=0,low=-1`."""

from __future__ import annotations

import math
import re

_NAME = re.compile(r"[A-Za-z0-9._:@/-]{1,128}")


def parse_named_numbers(text: str) -> dict[str, float]:
    """The numbers by name, in their order. Raises ValueError for anything else than such a list."""
    numbers: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not equals or not _NAME.fullmatch(name) or not math.isfinite(number):
            raise ValueError(f"expected NAME=NUMBER,NAME=NUMBER,..., got {part!r}")
        if name in numbers:
            raise ValueError(f"{name!r} is given twice")
        numbers[name] = number
    return numbers


def check_weights(text: str) -> str:
    """A list of positive numbers, or an empty one. Raises ValueError."""
    for name, weight in parse_named_numbers(text).items():
        if weight <= 0:
            raise ValueError(f"the weight of {name!r} must be above 0, got {weight:g}")
    return text


def check_classes(text: str) -> str:
    """A list of one or more different whole numbers. Raises ValueError."""
    numbers = parse_named_numbers(text)
    if not numbers or any(value != int(value) for value in numbers.values()):
        raise ValueError("expected whole numbers by name, like high=1,normal=0,low=-1")
    if any(name.lstrip("+-").isdigit() for name in numbers):
        raise ValueError("a class needs a name that is no number: requests may give either")
    if len(set(numbers.values())) < len(numbers):
        raise ValueError("two names have the same number")
    if len(numbers) > MAX_CLASSES:
        raise ValueError(f"at most {MAX_CLASSES} classes, got {len(numbers)}")
    return text


# Each is a label of metrics, and every look into a queue compares them.
MAX_CLASSES = 16
