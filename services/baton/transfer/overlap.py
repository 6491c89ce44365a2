"""How much of a source's transfer is hidden behind its compute. Pure."""

from __future__ import annotations


class Overlap:
    """When a handoff's bytes moved, and when the tokens that they are of were computed."""

    def __init__(self) -> None:
        self.busy_s = 0.0
        """Time with a write of this handoff under way."""
        self._busy_until = float("-inf")
        self._started: dict[int, float] = {}
        # When each write was done, and its bytes.
        self._landed: list[tuple[float, int]] = []
        self._computed_at: float | None = None

    def started(self, write_id: int, now: float) -> None:
        self._started[write_id] = now

    def ended(self, write_id: int, at: float, num_bytes: int) -> None:
        """A write is done, or was given up with 0 bytes. Repeats are ignored."""
        started = self._started.pop(write_id, None)
        if started is None:
            return
        self.busy_s += max(0.0, at - max(started, self._busy_until))
        self._busy_until = max(at, self._busy_until)
        if num_bytes:
            self._landed.append((at, num_bytes))

    def computed(self, now: float) -> None:
        """The last token of the prompt is computed."""
        self._computed_at = now

    @property
    def hidden_bytes(self) -> int:
        """Bytes that had landed when the last token was computed."""
        end = self._computed_at
        if end is None or not self._landed:
            return 0
        return sum([size for at, size in self._landed if at <= end])

    @property
    def exposed_s(self) -> float:
        """From the last token's compute until the last write was done."""
        if self._computed_at is None or not self._landed:
            return 0.0
        return max(0.0, max([at for at, _ in self._landed]) - self._computed_at)
