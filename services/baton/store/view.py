"""What a watcher has been told, so that it hears of each difference once (pure)."""

from __future__ import annotations

from collections.abc import Mapping

from baton.store.base import WatchEvent


class View:
    """The entries as a watcher knows them; methods return the events that bring it up to date."""

    def __init__(self) -> None:
        self._known: dict[str, bytes] = {}

    def apply(self, event: WatchEvent) -> list[WatchEvent]:
        """One change. Nothing when the watcher knows it already."""
        if event.kind == "put":
            if self._known.get(event.key) == event.value:
                return []
            self._known[event.key] = event.value
        elif self._known.pop(event.key, None) is None:
            return []
        return [event]

    def resync(self, entries: Mapping[str, bytes]) -> list[WatchEvent]:
        """After a cut: what vanished as expired, all entries as puts, and synced."""
        gone = self._vanished(entries)
        self._known = dict(entries)
        puts = [WatchEvent("put", key, value) for key, value in entries.items()]
        return [*gone, *puts, WatchEvent("synced")]

    def compare(self, entries: Mapping[str, bytes]) -> list[WatchEvent]:
        """Without a cut: only the differences."""
        changed = [
            WatchEvent("put", key, value)
            for key, value in entries.items()
            if self._known.get(key) != value
        ]
        gone = self._vanished(entries)
        self._known = dict(entries)
        return [*gone, *changed]

    def _vanished(self, entries: Mapping[str, bytes]) -> list[WatchEvent]:
        return [WatchEvent("expired", key) for key in self._known if key not in entries]
