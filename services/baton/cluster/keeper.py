"""A thread that does one thing again and again, and outlives its failures."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from baton.telemetry.logging import event

log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 10.0
# Failures in a row for so long are more than a hiccup of Ray's.
PATIENCE_S = 30.0


class Keeper:
    """Calls `step` every `tick_s`; one that raises is logged, and called again after a pause."""

    def __init__(self, name: str, step: Callable[[], None], tick_s: float) -> None:
        self._name = name
        self._step = step
        self._tick_s = tick_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        # The newest failure while there is no success after it, and when the row of them began.
        self._failure: Exception | None = None
        self._failing_since = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the step that runs has ended."""
        self._stopping.set()
        self._thread.join()

    def failure(self) -> str | None:
        """What the last step failed with; None when it did not."""
        failure = self._failure
        return None if failure is None else f"{type(failure).__name__}: {failure}"

    def problem(self) -> str | None:
        """Why what it keeps should count as unwell: it has failed for a while."""
        failure = self.failure()
        if failure is None or time.monotonic() < self._failing_since + PATIENCE_S:
            return None
        return f"{self._name} fails: {failure}; see the log"

    def _run(self) -> None:
        pause_s, backoff_s = self._tick_s, FIRST_BACKOFF_S
        while not self._stopping.wait(pause_s):
            try:
                self._step()
            except Exception as error:
                log.exception(*event("keeper_failed", keeper=self._name, retry_s=backoff_s))
                if self._failure is None:
                    self._failing_since = time.monotonic()
                self._failure = error
                pause_s, backoff_s = backoff_s, min(2 * backoff_s, MAX_BACKOFF_S)
            else:
                self._failure = None
                pause_s, backoff_s = self._tick_s, FIRST_BACKOFF_S
