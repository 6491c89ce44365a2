"""Children that hear a signal which this process was told to ignore.

What a shell starts in the background ignores SIGINT, what nohup starts SIGHUP, and so do all their
children.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heard(number: signal.Signals) -> Iterator[None]:
    """Processes that are started meanwhile begin with the signal's default."""
    before = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)
