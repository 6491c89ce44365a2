"""Texts that were tokenized lately, and their tokens."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Sequence

TokenIds = tuple[int, ...]

_ENTRY_BYTES = 200
_TOKEN_BYTES = 8


class SegmentCache:
    """Least recently used goes first, beyond `max_bytes`. For several threads.

    What it counts is the memory of its own: texts, references to tokens (which share their numbers)
    and the entries themselves.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: dict[str, TokenIds] = {}
        self._lock = threading.Lock()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get_all(self, texts: Sequence[str]) -> list[TokenIds | None]:
        """The tokens of each text, None for those that are not known."""
        found: list[TokenIds | None] = []
        with self._lock:
            entries = self._entries
            for text in texts:
                tokens = entries.pop(text, None)
                if tokens is not None:
                    entries[text] = tokens
                found.append(tokens)
        return found

    def put_all(self, entries: Iterable[tuple[str, TokenIds]]) -> None:
        """Remember these; one that is larger than all of the room is left out."""
        with self._lock:
            for text, tokens in entries:
                size = _size(text, tokens)
                if size > self._max_bytes or text in self._entries:
                    continue
                self._entries[text] = tokens
                self.num_bytes += size
            while self.num_bytes > self._max_bytes:
                oldest = next(iter(self._entries))
                self.num_bytes -= _size(oldest, self._entries.pop(oldest))


def _size(text: str, tokens: TokenIds) -> int:
    return sys.getsizeof(text) + _TOKEN_BYTES * len(tokens) + _ENTRY_BYTES
