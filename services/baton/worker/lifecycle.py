"""The states of a worker process, and which changes between them are allowed (pure)."""

from __future__ import annotations

from enum import Enum


class WorkerState(Enum):
    """Where a worker is in its life. Only a READY worker is given new requests."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


_ALLOWED: dict[WorkerState, frozenset[WorkerState]] = {
    WorkerState.STARTING: frozenset({WorkerState.READY, WorkerState.STOPPED}),
    # A drain can be undone.
    WorkerState.READY: frozenset({WorkerState.DRAINING, WorkerState.STOPPED}),
    WorkerState.DRAINING: frozenset({WorkerState.READY, WorkerState.STOPPED}),
    WorkerState.STOPPED: frozenset(),
}


class Lifecycle:
    """The current state; `move` refuses what makes no sense."""

    def __init__(self) -> None:
        self.state = WorkerState.STARTING

    def move(self, to: WorkerState) -> bool:
        """Change to `to`; False when already there. Raises ValueError when it is not allowed."""
        if to is self.state:
            return False
        if to not in _ALLOWED[self.state]:
            raise ValueError(f"a worker cannot go from {self.state.value} to {to.value}")
        self.state = to
        return True
