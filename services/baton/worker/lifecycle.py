"""The states of a worker process, and which changes between them are allowed (pure)."""

from __future__ import annotations

from enum import Enum


class WorkerState(Enum):
    """Where a worker is in its life. Only a READY worker is given new requests.

    DRAINING can be undone; LEAVING is a drain at whose end the process stops.
    """

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    LEAVING = "leaving"
    STOPPED = "stopped"


_ALLOWED: dict[WorkerState, frozenset[WorkerState]] = {
    WorkerState.STARTING: frozenset({WorkerState.READY, WorkerState.STOPPED}),
    WorkerState.READY: frozenset({WorkerState.DRAINING, WorkerState.LEAVING}),
    WorkerState.DRAINING: frozenset({WorkerState.READY, WorkerState.LEAVING}),
    WorkerState.LEAVING: frozenset({WorkerState.STOPPED}),
    WorkerState.STOPPED: frozenset(),
}


class Lifecycle:
    """The current state; `move` refuses what makes no sense."""

    def __init__(self) -> None:
        self.state = WorkerState.STARTING

    @property
    def is_draining(self) -> bool:
        """Gateways are to move away what runs here."""
        return self.state in (WorkerState.DRAINING, WorkerState.LEAVING)

    def move(self, to: WorkerState) -> bool:
        """Change to `to`; False when already there. Raises ValueError when it is not allowed."""
        if to is self.state:
            return False
        if to not in _ALLOWED[self.state]:
            raise ValueError(f"a worker cannot go from {self.state.value} to {to.value}")
        self.state = to
        return True
