"""Requests that no worker can take now: bounded queues, one for each model.

Higher classes go first, tenants of a class share fairly, a tenant's requests go in their order
(`core.queue_policy`). Who is let in, and who has to go, is decided by `overload` and `backlog`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import Gauge

from baton.core.clock import Clock
from baton.core.errors import BatonError, DeadlineExceededError, OverloadedError
from baton.core.named_numbers import parse_named_numbers
from baton.core.queue_policy.priority import Priority
from baton.core.queue_policy.vtc import Vtc
from baton.core.settings import GatewaySettings
from baton.gateway.queue.backlog import Backlog
from baton.gateway.queue.fair_share import FairShare
from baton.gateway.queue.overload import MIN_RETRY_AFTER_S, Overload, retry_after_s
from baton.gateway.queue.pace import Pace
from baton.gateway.queue.priority_classes import Priorities
from baton.gateway.workers.fleet import Fleet
from baton.telemetry.logging import event
from baton.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from baton.gateway.running import Running

log = logging.getLogger(__name__)

# How old the output counts may be that tenants are compared by.
SETTLE_S = 0.1
OTHER = "other"


class Waiting:
    """See the module. `turn_away(running, error)` ends a request and leaves nothing of it here."""

    def __init__(
        self,
        fleet: Fleet,
        settings: GatewaySettings,
        overload: Overload,
        metrics: Metrics,
        clock: Clock,
        turn_away: Callable[[Running, BatonError], None],
    ) -> None:
        self._fleet = fleet
        self._settings = settings
        self._overload = overload
        self._metrics = metrics
        self._clock = clock
        self._turn_away = turn_away
        self._priorities = Priorities(settings.priorities)
        self._weights = parse_named_numbers(settings.tenant_weights)
        self._queues: dict[str, Priority[Running, Vtc[Running]]] = {}
        self._paces: dict[str, Pace] = {}
        # Those that have not been placed yet, so nothing is lost when they are turned away.
        self._backlog: Backlog[Running] = Backlog(self._weight)
        self.shares = FairShare(self._share_queue, self._class)
        self._settled_at = clock()
        self._length = 0
        self._is_placing = False

    def __len__(self) -> int:
        return self._length

    # --- in ---

    def admit(self, running: Running) -> None:
        """Look at a new request. Raises OverloadedError or UnavailableError when it is predicted to
        miss its deadline or the goal.
        """
        model = running.request.model
        if not self._fleet.is_ready(model):
            # Its workers may be back in time.
            return
        refusal = self._overload.refusal(running, self._wait_s(running))
        if refusal is not None:
            self._reject(running, refusal.reason)
            raise refusal.error

    def goes_first(self, running: Running) -> bool:
        """Whether a new request may be placed before all that wait."""
        queue = self._queue(running.request.model)
        return queue.outranks_all(running) and not self._overload.holds_back(running)

    def add(self, running: Running) -> None:
        """A new request has to wait. Raises OverloadedError when too many do."""
        if self._length >= self._settings.max_queue:
            self._make_room(running)
        self._queue(running.request.model).push(running)
        self._backlog.add(running, self._class(running), running.request.tenant)
        self._added(running)

    def add_again(self, running: Running) -> None:
        """Its attempt has failed; it has waited its turn already, so it goes before its class."""
        self._queue(running.request.model).push_front(running)
        self._added(running)

    def _make_room(self, running: Running) -> None:
        victim: Running | None = None
        if self._settings.overload == "reject_lowest":
            victim = self._backlog.to_displace(self._class(running), running.request.tenant)
        if victim is None:
            self._reject(running, "queue_full")
            raise self._full(running)
        self._reject(victim, "displaced")
        self._turn_away(victim, self._full(victim))

    def _full(self, running: Running) -> OverloadedError:
        return OverloadedError(
            f"{self._settings.max_queue} requests wait for a worker already; try again later",
            retry_after_s=retry_after_s(self._wait_s(running) or MIN_RETRY_AFTER_S),
        )

    # --- out ---

    def remove(self, running: Running) -> None:
        """Take it out, if it waits."""
        if not running.is_waiting:
            return
        model = running.request.model
        queue = self._queue(model)
        queue.remove(running)
        self._backlog.remove(running, self._class(running), running.request.tenant)
        running.is_waiting = False
        self._length -= 1
        self._gauge(running).dec()
        if not len(queue):
            self._pace(model).rests(self._clock())

    def place(self, place: Callable[[Running], bool]) -> None:
        """Give workers to those who wait, as long as `place` finds some. It removes whom it
        has placed. Those who are too late are turned away first.
        """
        if not self._length or self._is_placing:
            # The latter within a `turn_away` below.
            return
        self._is_placing = True
        try:
            self._settle()
            for model, queue in list(self._queues.items()):
                while (running := queue.peek()) is not None:
                    if self._overload.is_late(running):
                        self._turn_away(running, self._too_late(running))
                    elif self._overload.holds_back(running) or not place(running):
                        break
                if len(queue):
                    self._measure_pace(model)
        finally:
            self._is_placing = False

    def placed(self, running: Running) -> None:
        """It has got workers, out of the queue or without waiting."""
        now = self._clock()
        request = running.request
        if running.is_waiting:
            self._pace(request.model).served(now, self._overload.cost(running))
        else:
            self._share_queue(request.model, self._class(running)).pass_through(request.tenant)
        self.remove(running)
        self.shares.placed(running)
        self._metrics.queue_time.labels(self._priorities.name(request.priority)).observe(
            now - running.queued_at
        )

    def ended(self, running: Running) -> None:
        """It is over, whatever became of it."""
        self.remove(running)
        self.shares.ended(running)
        attempts = running.record.attempts
        if attempts:
            self._overload.ended(running, self._clock() - attempts[0].placed_at)

    def expired(self, running: Running) -> DeadlineExceededError:
        """Its deadline passed while it waited: what it is told."""
        self._reject(running, "expired")
        return DeadlineExceededError(
            f"the request's deadline passed while it waited for a worker: "
            f"{self._fleet.shortage(running.request.model)}; look at `baton workers`, start more, "
            "or raise the deadline"
        )

    def _too_late(self, running: Running) -> BatonError:
        if self._clock() >= running.request.deadline:
            return self.expired(running)
        self._reject(running, "late")
        return OverloadedError(
            "the request has waited for a worker so long that its answer would come after its "
            "deadline; try again later, or raise the deadline",
            retry_after_s=retry_after_s(self._wait_s(running) or MIN_RETRY_AFTER_S),
        )

    # --- queues ---

    def _wait_s(self, running: Running) -> float | None:
        """How long a new request like it would wait; None when that is unknown."""
        model = running.request.model
        queue = self._queues.get(model)
        if queue is None or not len(queue):
            return 0.0
        rate = self._pace(model).rate(self._clock())
        if rate is None:
            return None
        mine = self._class(running)
        cost = sum(share.cost for number, share in queue.classes() if number > mine)
        return (cost + queue.queue(mine).ahead(running.request.tenant)) / rate

    def _queue(self, model: str) -> Priority[Running, Vtc[Running]]:
        queue = self._queues.get(model)
        if queue is None:
            queue = self._queues[model] = Priority(
                self._class,
                lambda: Vtc(
                    lambda running: running.request.tenant, self._overload.cost, self._weight
                ),
                aging_s=self._settings.priority_aging_s,
                arrived_of=lambda running: running.queued_at,
            )
        return queue

    def _share_queue(self, model: str, priority: int) -> Vtc[Running]:
        return self._queue(model).queue(self._priorities.nearest(priority))

    def _class(self, running: Running) -> int:
        return self._priorities.nearest(running.request.priority)

    def _weight(self, tenant: str) -> float:
        return self._weights.get(tenant, 1.0)

    def _pace(self, model: str) -> Pace:
        return self._paces.setdefault(model, Pace())

    def _measure_pace(self, model: str) -> None:
        """Somebody waits. A pool that is gone says nothing of its pace."""
        if self._fleet.is_ready(model):
            self._pace(model).waits(self._clock())
        else:
            self._pace(model).rests(self._clock())

    def _settle(self) -> None:
        """Bring the tenants' counters up to date where they decide anything."""
        now = self._clock()
        if now - self._settled_at < SETTLE_S:
            return
        self._settled_at = now
        if any(share.num_tenants > 1 for q in self._queues.values() for _, share in q.classes()):
            self.shares.settle()

    def _added(self, running: Running) -> None:
        model = running.request.model
        now = self._clock()
        running.is_waiting = True
        running.queued_at = now
        self._length += 1
        self._gauge(running).inc()
        self._measure_pace(model)
        if len(self._queue(model)) == 1 and not self._fleet.is_ready(model):
            # Once for each queue that begins for want of any worker, not for want of room.
            log.warning(*event("requests_wait", model=model, reason=self._fleet.shortage(model)))

    # --- metrics ---

    def _gauge(self, running: Running) -> Gauge:
        request = running.request
        tenant = request.tenant if request.tenant in self._weights else OTHER
        return self._metrics.queue_length.labels(self._priorities.name(request.priority), tenant)

    def _reject(self, running: Running, reason: str) -> None:
        priority = self._priorities.name(running.request.priority)
        self._metrics.rejections.labels(reason, priority).inc()
