"""How late events come from a host whose clock is not ours. Pure.

Our instant minus theirs is the delay plus the difference of the clocks, which is unknown but hardly
changes. So the smallest of late stands for no delay, and what an event has above it is its lag:
LEDBAT's queueing delay above a base delay, whose minima are kept by the minute for ten minutes
(RFC 6817, 2.4.2 and 4.2). It is too small by what the quickest event took. Clocks that drift apart
by 50 ppm, which is much, add 30 ms at most.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 60.0
NUM_WINDOWS = 10


class EventLag:
    """Of one sender. Its instants and ours may have any zero."""

    def __init__(self) -> None:
        # (number of the window, smallest difference in it), oldest first.
        self._least: deque[tuple[int, float]] = deque()

    def of(self, sent_at: float, now: float) -> float:
        """Seconds that an event was late that the sender dates `sent_at`, by the events so far."""
        least, window, difference = self._least, int(now // WINDOW_S), now - sent_at
        while least and least[0][0] <= window - NUM_WINDOWS:
            least.popleft()
        if not least or least[-1][0] != window:
            least.append((window, difference))
        elif difference < least[-1][1]:
            least[-1] = (window, difference)
        return difference - min(base for _, base in least)
