"""One thread that does things one after another, the urgent ones first."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from itertools import count

URGENT, NORMAL = 0, 1
_LAST = 2


class Lane:
    """Work of equal urgency is done in the order in which it came."""

    def __init__(self, name: str) -> None:
        self._queue: queue.PriorityQueue[tuple[int, int, Callable[[], None] | None]]
        self._queue = queue.PriorityQueue()
        self._numbers = count()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, work: Callable[[], None], urgency: int = NORMAL) -> None:
        """Queue work that raises nothing. From any thread; callers bound what they queue."""
        self._queue.put((urgency, next(self._numbers), work))

    def close(self, timeout_s: float) -> bool:
        """Finish what is queued. False when that takes longer; the thread is left behind then."""
        self._queue.put((_LAST, next(self._numbers), None))
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            _, _, work = self._queue.get()
            if work is None:
                return
            work()
