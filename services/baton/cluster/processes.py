"""All processes of a session, from /proc: what Ray leaves behind must be found without its help."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time

KILL_WAIT_S = 2.0
REAP_WAIT_S = 1.0
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that `reap` finds them.

    In a container the alternative is process 1, which may reap nobody.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap(wait_s: float = REAP_WAIT_S) -> None:
    """Wait for killed children, adopted ones included, so that no zombie outlives this process."""
    deadline = time.monotonic() + wait_s
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.01)


def in_session(session: int) -> list[int]:
    """Pids of the living processes of a session (zombies left out)."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stat:
                # The name, in parentheses, may hold spaces: count from its end.
                state, _, _, sid = stat.read().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(sid) == session and state not in "ZX":
            found.append(int(name))
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill_session(session: int, wait_s: float = KILL_WAIT_S) -> list[int]:
    """SIGKILL every process of a session but this one; returns the pids that would not go.

    Repeats, since one of them may be starting another meanwhile.
    """
    me = os.getpid()
    deadline = time.monotonic() + wait_s
    while True:
        left = [pid for pid in in_session(session) if pid != me]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)
