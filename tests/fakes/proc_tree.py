"""Who started whom, from /proc."""

from __future__ import annotations

from pathlib import Path

from baton.cluster.processes import in_session


def children_of(parent: int) -> list[int]:
    """Pids of the processes that a process started itself."""
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/stat")
        if (fields := read(path).rpartition(")")[2].split()) and int(fields[1]) == parent
    ]


def named(session: int, name: str) -> list[int]:
    """Pids of a session whose command line has `name` in it."""
    return [p for p in in_session(session) if name in read(Path(f"/proc/{p}/cmdline"))]


def read(path: Path) -> str:
    """The text of a file that may vanish; then it is empty."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
