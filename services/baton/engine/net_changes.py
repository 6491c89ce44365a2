"""What came and went since somebody last asked, as the net effect."""

from __future__ import annotations


class NetChanges:
    """A hash that came and went in between is in neither list; none is in both."""

    def __init__(self) -> None:
        self._stored: dict[bytes, None] = {}
        self._removed: dict[bytes, None] = {}

    def __bool__(self) -> bool:
        return bool(self._stored or self._removed)

    def store(self, block_hash: bytes) -> None:
        if block_hash in self._removed:
            del self._removed[block_hash]
        else:
            self._stored[block_hash] = None

    def remove(self, block_hash: bytes) -> None:
        if block_hash in self._stored:
            del self._stored[block_hash]
        else:
            self._removed[block_hash] = None

    def take(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """(stored, removed) since the last call."""
        stored, removed = tuple(self._stored), tuple(self._removed)
        self._stored.clear()
        self._removed.clear()
        return stored, removed
