"""Ports for servers that are told theirs, or keep it while they are away.

A port that the kernel gave to a probe (`bind` to 0) is soon somebody else's, as all that asks for
any is given one of the same range. These are below that range, and given in turn.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

# Linux gives ports from 32768 on to who asks for any, and Ray its workers those up to 19999.
_FIRST, _END = 20_000, 32_000
# Each of pytest-xdist's processes has a share of its own, up to so many.
_SHARES = 8


def _ports() -> Iterator[int]:
    size = (_END - _FIRST) // _SHARES
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _FIRST + worker % _SHARES * size
    # Another run on this machine has begun elsewhere.
    start = os.getpid() * 37 % size
    while True:
        yield from range(first + start, first + size)
        yield from range(first, first + start)


_given = _ports()


def free_port(host: str = "127.0.0.1") -> int:
    """One that nobody has at `host` now; it is not given again for the next 1,500."""
    for port in _given:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise AssertionError("there is no end to ports")
