"""Requests that no worker can take now: a bounded queue for each model."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from baton.core.clock import Clock
from baton.core.errors import OverloadedError
from baton.core.queue_policy.fcfs import Fcfs
from baton.gateway.fleet import Fleet
from baton.telemetry.logging import event
from baton.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from baton.gateway.running import Running

log = logging.getLogger(__name__)

MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 60.0
# Weight of the newest pause between two placements in their average.
_ALPHA = 0.1


class Waiting:
    """First in, first out per model, `max_waiting` in all. Nobody overtakes those who wait."""

    def __init__(self, fleet: Fleet, max_waiting: int, metrics: Metrics, clock: Clock) -> None:
        self._fleet = fleet
        self._max_waiting = max_waiting
        self._metrics = metrics
        self._clock = clock
        self._queues: dict[str, Fcfs[Running]] = {}
        self._length = 0
        self._placed_at = clock()
        self._pause_s = 0.0

    def __len__(self) -> int:
        return self._length

    def has(self, model: str) -> bool:
        """Somebody waits for a worker of this model."""
        return bool(self._queues.get(model))

    def add(self, running: Running) -> None:
        """A new request has to wait. Raises OverloadedError when too many do."""
        if self._length >= self._max_waiting:
            raise OverloadedError(
                f"{self._length} requests wait for a worker already; try again later",
                retry_after_s=self._retry_after_s(),
            )
        self._queue(running).push(running)
        self._added(running)

    def add_again(self, running: Running) -> None:
        """Its attempt has failed; it has waited its turn already, so it goes to the front."""
        self._queue(running).push_front(running)
        self._added(running)

    def remove(self, running: Running) -> None:
        """Take it out, if it waits."""
        if running.is_waiting:
            self._queue(running).remove(running)
            running.is_waiting = False
            self._length -= 1
            self._metrics.queue_length.set(self._length)

    def place(self, place: Callable[[Running], bool]) -> None:
        """Give workers to those who wait, as long as `place` finds some. It removes whom it
        has placed.
        """
        if not self._length:
            return
        for queue in self._queues.values():
            while (running := queue.peek()) is not None and place(running):
                pass

    def note_placement(self) -> None:
        """One more request has got a worker: the pace tells when others will."""
        now = self._clock()
        self._pause_s += _ALPHA * (now - self._placed_at - self._pause_s)
        self._placed_at = now

    def _retry_after_s(self) -> float:
        """How long the queue lasts at the pace of late."""
        return min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, self._length * self._pause_s))

    def _queue(self, running: Running) -> Fcfs[Running]:
        return self._queues.setdefault(running.request.model, Fcfs())

    def _added(self, running: Running) -> None:
        running.is_waiting = True
        running.queued_at = self._clock()
        self._length += 1
        if len(self._queue(running)) == 1:
            self._tell_of_shortage(running.request.model)
        self._metrics.queue_length.set(self._length)

    def _tell_of_shortage(self, model: str) -> None:
        """Once for each queue that begins for want of any worker, not for want of room."""
        if not self._fleet.is_ready(model):
            log.warning(*event("requests_wait", model=model, reason=self._fleet.shortage(model)))
