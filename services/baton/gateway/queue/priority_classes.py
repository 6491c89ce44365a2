"""Which class a request belongs to: what clients send, mapped to the few that the settings name.

A name is one of `gateway.priorities`. A number is read as vLLM reads its `priority` field, so that
its clients can be pointed here: lower goes first, 0 is usual. The class is the one nearest to the
number turned round; inside Baton (`Request.priority`) higher goes first.
"""

from __future__ import annotations

from baton.core.errors import InvalidRequestError
from baton.core.named_numbers import parse_named_numbers

HEADER = b"x-priority"
# Beyond it no class is nearer.
_MAX_NUMBER = 2**31


class Priorities:
    """The classes of `gateway.priorities` (text that `check_classes` has passed)."""

    def __init__(self, text: str) -> None:
        self._by_name = {name: int(value) for name, value in parse_named_numbers(text).items()}
        self._names = {value: name for name, value in self._by_name.items()}

    @property
    def names(self) -> list[str]:
        """All classes, highest first."""
        return [self._names[value] for value in sorted(self._names, reverse=True)]

    def wanted(self, field: int | str | None, header: bytes | None = None) -> int:
        """The class of a request with this `priority` field and x-priority header, if any.

        The header wins: whoever stands between client and gateway can set it. Raises
        InvalidRequestError for names that are no class.
        """
        if header is not None:
            return self._named(header.decode("latin-1").strip(), "x-priority")
        if field is None:
            return self.nearest(0)
        return self._named(field, "priority") if isinstance(field, str) else self._numbered(field)

    def nearest(self, priority: int) -> int:
        """The class of a `Request.priority`; of two equally near ones the lower."""
        if priority in self._names:
            return priority
        return min(self._names, key=lambda value: (abs(value - priority), value))

    def name(self, priority: int) -> str:
        """What the class of a `Request.priority` is called."""
        return self._names[self.nearest(priority)]

    def _named(self, text: str, param: str) -> int:
        found = self._by_name.get(text)
        if found is not None:
            return found
        try:
            return self._numbered(int(text))
        except ValueError:
            raise InvalidRequestError(
                f"Invalid '{param}': expected one of {', '.join(self.names)}, or a whole number "
                "(lower goes first, 0 is usual).",
                param=param,
            ) from None

    def _numbered(self, number: int) -> int:
        return self.nearest(-max(-_MAX_NUMBER, min(_MAX_NUMBER, number)))
