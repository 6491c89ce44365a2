"""Proof that a process on this node is dead, which frees what it might have written to."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """One process for ever: pids are used again, a pid with its start time is not."""

    pid: int
    # Clock ticks since boot; 0 when unknown.
    start: int
    # Boot id and pid namespace: who counts these pids. Empty when unknown.
    node: str


@functools.cache
def node() -> str:
    """Names the kernel and the pid namespace that this process lives in."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def this_process() -> ProcessRef:
    """What peers on this node are told."""
    stat = _stat(os.getpid())
    return ProcessRef(os.getpid(), stat[1] if stat else 0, node())


def is_dead(process: ProcessRef) -> bool:
    """True only with proof. Processes of another node, or an unknown one, are never proven dead."""
    if not process.pid or not process.node or process.node != node():
        return False
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    stat = _stat(process.pid)
    if stat is None:
        # Hidden from us, or gone since: the next look will tell.
        return False
    state, start = stat
    if process.start and start != process.start:
        return True
    # A zombie has no memory left, once its last thread is gone.
    return state in "ZX" and _num_threads(process.pid) <= 1


def _stat(pid: int) -> tuple[str, int] | None:
    """(state, start time in ticks) of a process, as `proc(5)` has them."""
    try:
        # The name in parentheses may hold anything, so fields count from its end.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def _num_threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0
