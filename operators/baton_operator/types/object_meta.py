"""What the operator reads of an object's metadata."""

from __future__ import annotations

from baton_operator.types.base import StatusPart


class ObjectMeta(StatusPart):
    """Of an object as the API server gives it."""

    name: str
    namespace: str
