"""From what Ray says about a dead actor to the error that its worker raised (pure)."""

from __future__ import annotations

import re

from baton.core import errors
from baton.core.errors import BatonError, UnavailableError

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_RAISED = re.compile(r"^(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*): ?(.*)$")


def explain(worker_id: str, text: str) -> BatonError:
    """The worker's own error when `text` (a traceback, as Ray renders it) ends in one of ours.

    Anything else becomes UnavailableError with the traceback's last line.
    """
    lines = [line for line in _ANSI.sub("", text).splitlines() if line.strip()]
    for i in range(len(lines) - 1, -1, -1):
        match = _RAISED.match(lines[i])
        kind = getattr(errors, match[1], None) if match else None
        if match and isinstance(kind, type) and issubclass(kind, BatonError):
            message = "\n".join([match[2], *lines[i + 1 :]])
            return errors.from_code(kind.code, f"{worker_id}: {message}")
    last = lines[-1].strip() if lines else "no reason given"
    return UnavailableError(f"{worker_id} could not start: {last}")
