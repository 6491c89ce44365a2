"""Stop strings in a text that comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Lets text through up to the first stop string, holding back what may become one.

    The stop string whose last character comes first wins, then the longest of those; so the result
    does not depend on how the text is cut into pieces.
    """

    __slots__ = ("_held", "_include", "_stops", "matched")

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        """With `include` the stop string is a part of the text."""
        # The longest first: of those that end together it begins first.
        self._stops = sorted(stops, key=len, reverse=True)
        self._include = include
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """The text that can be shown now; after a match (`matched`) no more follows."""
        if not text:
            return ""
        text = self._held + text
        first_end = len(text) + 1
        for stop in self._stops:
            at = text.find(stop, 0, first_end - 1)
            if at >= 0:
                first_end = at + len(stop)
                self.matched = stop
        if self.matched is not None:
            self._held = ""
            return text[: first_end if self._include else first_end - len(self.matched)]
        keep = self._first_possible_start(text)
        self._held = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """What was held back; the last call."""
        text, self._held = self._held, ""
        return text

    def _first_possible_start(self, text: str) -> int:
        """Where the longest end of `text` begins that is the beginning of a stop string."""
        first = len(text)
        for stop in self._stops:
            at = text.find(stop[0], max(0, len(text) - len(stop) + 1), first)
            while at >= 0:
                if stop.startswith(text[at:]):
                    first = at
                    break
                at = text.find(stop[0], at + 1, first)
        return first
