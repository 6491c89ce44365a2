"""Work for a loop's thread, which whoever brings it may do at once while the loop waits.

A message that finds the loop waiting then costs no change of threads, on its way in and, as its
answer is written by the thread that brought it, on its way out.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable

Work = Callable[[], None]


class Inbox:
    """One thread at a time is inside: the loop's, except while it is in `wait`.

    Work is done in the order in which it came. Before the first `wait`, and after the last, nothing
    is done by others.
    """

    def __init__(self, serve: Callable[[], None]) -> None:
        """`serve` is what `do` calls inside: it does what has come, see `pop`, and what follows."""
        self._serve = serve
        self._works: deque[Work] = deque()
        self._inside = threading.Lock()
        self._inside.acquire()
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()

    # --- any thread ---

    def post(self, work: Work) -> None:
        """Have the loop's thread do it soon."""
        self._works.append(work)
        self._calls.put(None)

    def do(self, work: Work) -> None:
        """Do it here and now if the loop waits; else as `post`."""
        self._works.append(work)
        if not self._inside.acquire(blocking=False):
            self._calls.put(None)
            return
        try:
            self._serve()
        finally:
            self._inside.release()

    # --- inside ---

    def pop(self) -> Work | None:
        """The next piece of work, if there is any."""
        return self._works.popleft() if self._works else None

    def call(self) -> None:
        """End the loop's `wait`."""
        self._calls.put(None)

    # --- the loop's thread ---

    def wait(self, seconds: float) -> None:
        """Outside, until there is work that nobody has done, or a `call`, or for `seconds`."""
        self._inside.release()
        try:
            self._calls.get(timeout=seconds)
            while True:
                self._calls.get_nowait()
        except queue.Empty:
            return
        finally:
            self._inside.acquire()
