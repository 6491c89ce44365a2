"""Whether a gateway should be sent traffic.

Workers are no condition: requests wait here for them. So a gateway is ready when it accepts, until
it is told to leave (`Context.unready`). At its start it first lets those workers come up that it
finds in the store, so that it does not route in ignorance of them.
"""

from __future__ import annotations

from collections.abc import Callable

from baton.core.clock import Clock, monotonic
from baton.gateway.workers.fleet import Fleet

# Longest time that it lets them.
START_WAIT_S = 10.0


class Readiness:
    """`snapshots_done`: what those workers have cached is known, too."""

    def __init__(
        self,
        fleet: Fleet,
        snapshots_done: Callable[[], bool] = lambda: True,
        clock: Clock = monotonic,
    ) -> None:
        self._fleet = fleet
        self._snapshots_done = snapshots_done
        self._clock = clock
        self._started_at = clock()
        self._has_started = False

    def reason(self) -> str | None:
        """Why to send it nothing yet, for people; None from when it is ready on."""
        if self._has_started:
            return None
        missing = self._missing()
        if missing is not None and self._clock() - self._started_at < START_WAIT_S:
            return missing
        # What comes later is no reason to stop.
        self._has_started = True
        return None

    def _missing(self) -> str | None:
        num = self._fleet.num_missing_from_start()
        if num is None:
            return "the gateway starts: the store has not answered yet"
        if num:
            return f"the gateway starts: not connected with {num} of the workers in the store yet"
        if not self._snapshots_done():
            return "the gateway starts: it does not know yet what its workers have cached"
        return None
