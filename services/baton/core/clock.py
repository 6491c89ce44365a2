"""Time as an argument: pure code takes a Clock, so that tests and the simulator own it."""

from __future__ import annotations

import time
from collections.abc import Callable

# Seconds from an arbitrary start, never going back.
Clock = Callable[[], float]

monotonic: Clock = time.monotonic
