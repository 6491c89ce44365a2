"""Text and numbers with a form: names, quantities, ports, lists keyed by name."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

_SUFFIX = r"(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?"
QUANTITY_PATTERN = rf"^([0-9]+(\.[0-9]+)?|\.[0-9]+){_SUFFIX}$"
SIZE_PATTERN = (
    r"^([0-9]*[1-9][0-9]*(\.[0-9]+)?|[0-9]*\.[0-9]*[1-9][0-9]*)(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
)
SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
HOST_PATTERN = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
RESOURCE_PATTERN = (
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
    r"[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?$"
)
_POWERS = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{letter: Decimal(1000) ** n for n, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Decimal(1024) ** n for n, letter in enumerate("KMGTPE", 1)},
}


@dataclass(frozen=True)
class ListMap:
    """A list whose items are told apart by one of their fields, which merges by it."""

    key: str

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {
            **handler(core),
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": [self.key],
        }

    def check(self, items: Sequence[Any]) -> Any:
        """The items. Raises ValueError when two have the same key."""
        keys = [getattr(item, self.key) for item in items]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"{self.key} {key!r} is given twice")
        return items


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _int_or_string(pattern: str, minimum: int) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "minimum": minimum,
            "maxLength": 32,
            "pattern": pattern,
        }
    )


Quantity = Annotated[
    str,
    BeforeValidator(_text),
    StringConstraints(pattern=QUANTITY_PATTERN, max_length=32),
    _int_or_string(QUANTITY_PATTERN, 0),
]
"""An amount as in a pod's resources: 2, 500m, 16Gi."""
Size = Annotated[
    str,
    BeforeValidator(_text),
    StringConstraints(pattern=SIZE_PATTERN, max_length=32),
    _int_or_string(SIZE_PATTERN, 1),
]
"""An amount of memory or disk above nothing: 16Gi, 500G, or bytes."""
Name = Annotated[str, StringConstraints(pattern=SUBDOMAIN_PATTERN, min_length=1, max_length=253)]
"""Of an object in the same namespace."""
Host = Annotated[str, StringConstraints(pattern=HOST_PATTERN, min_length=1, max_length=253)]
"""Of a DNS name; the first part may be a star."""
ResourceName = Annotated[
    str, StringConstraints(pattern=RESOURCE_PATTERN, min_length=1, max_length=253)
]
"""Of a resource that pods ask for: nvidia.com/gpu."""
Text = Annotated[str, StringConstraints(min_length=1, max_length=512)]
StringMap = Annotated[
    dict[str, Annotated[str, StringConstraints(max_length=16384)]], Field(max_length=64)
]
"""Labels or annotations; what their names may be is checked with the objects that get them."""


def by_key(key: str) -> tuple[ListMap, AfterValidator]:
    """Marks and checks a list keyed by `key`: `Annotated[list[X], *by_key("name")]`."""
    mark = ListMap(key)
    return mark, AfterValidator(mark.check)


def amount(quantity: str) -> Decimal:
    """What a quantity stands for, in bytes, cores or pieces. Raises ValueError for other text."""
    match = re.fullmatch(QUANTITY_PATTERN, quantity)
    if match is None:
        raise ValueError(f"expected a quantity like 500m or 16Gi, got {quantity!r}")
    return Decimal(match[1]) * _POWERS[match[3] or ""]


def whole_bytes(size: str) -> int:
    """A Size in bytes, rounded up."""
    return math.ceil(amount(size))
