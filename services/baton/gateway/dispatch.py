"""From a request to workers and back: placement or a queue, retries, deadlines, cancels.

Implements `generation.Generator`. Everything runs on the gateway's event loop and nothing waits:
one object per request, no task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from baton.core.clock import Clock, monotonic
from baton.core.errors import (
    BatonError,
    DeadlineExceededError,
    ModelNotFoundError,
    UnavailableError,
    WorkerLostError,
)
from baton.core.request import Request
from baton.core.settings import GatewaySettings
from baton.gateway.deadlines import Deadlines
from baton.gateway.fleet import Fleet
from baton.gateway.generation import TokenSink
from baton.gateway.handoff_metrics import HandoffMetrics
from baton.gateway.moves import Moves
from baton.gateway.ownership import Ownership, Side, Verdict
from baton.gateway.placement import Part
from baton.gateway.placing import Placer
from baton.gateway.running import Running
from baton.gateway.waiting import Waiting
from baton.router.policy.base import Policy
from baton.telemetry.metrics import Metrics

# A gateway that has found no worker for so long after its start says so at once.
START_WAIT_S = 10.0
# A prefill worker that was lost may have committed before: the target says so within this, or that
# it has not (it notices the loss too).
ADOPTION_WAIT_S = 2.0

_SHUTTING_DOWN = "the server is shutting down"


class Dispatcher:
    """See the module. `models` are served here even before their first worker came."""

    def __init__(
        self,
        fleet: Fleet,
        policy: Policy,
        settings: GatewaySettings,
        metrics: Metrics,
        models: Iterable[str],
        clock: Clock = monotonic,
        seed: int | None = None,
    ) -> None:
        self._fleet = fleet
        self._settings = settings
        self._metrics = metrics
        self._models = frozenset(models)
        self._clock = clock
        self._started_at = clock()
        self._is_stopping = False
        self._running: set[Running] = set()
        self._placer = Placer(fleet, policy, metrics, clock, seed)
        self._waiting = Waiting(fleet, settings.max_queue, metrics, clock)
        self.handoffs = HandoffMetrics(metrics)
        self._deadlines: Deadlines[Running] = Deadlines(self._time_is_up, clock)
        self._all_ended = asyncio.Event()
        self.moves = Moves(
            fleet,
            self._running,
            self._placer.submit_heir,
            self._replay,
            settings.max_moves_per_worker,
            metrics,
            clock,
        )
        fleet.on_room = self.place_waiting

    @property
    def num_running(self) -> int:
        """Requests that have not ended, waiting ones included."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    # --- Generator ---

    def submit(self, request: Request, sink: TokenSink) -> Running:
        """Queue or place a request; see `generation.Generator`."""
        self._admit(request.model)
        now = self._clock()
        ownership = Ownership(request, sink, self._settings.max_attempts)
        running = Running(self, request, ownership, now)
        if self._waiting.has(request.model) or not self._place(running):
            self._waiting.add(running)
        self._running.add(running)
        deadline = request.deadline
        if request.model not in self._fleet.models_seen:
            deadline = min(deadline, self._started_at + START_WAIT_S)
        running.timer = self._deadlines.add(running, deadline)
        return running

    def _admit(self, model: str) -> None:
        if self._is_stopping:
            raise UnavailableError(_SHUTTING_DOWN)
        if model in self._fleet.models_seen:
            return
        if model not in self._models:
            known = ", ".join(sorted(self._models | self._fleet.models_seen)) or "none yet"
            raise ModelNotFoundError(f"no model {model!r} here; there is: {known}", param="model")
        if self._clock() - self._started_at >= START_WAIT_S:
            raise self._no_worker(model)

    # --- the end ---

    def start_shutdown(self) -> None:
        """Refuse new requests; those here go on."""
        self._is_stopping = True

    async def finish(self, grace_s: float) -> None:
        """Wait for requests to end for up to `grace_s`, then end the rest with an error."""
        self.start_shutdown()
        if self._running and grace_s > 0:
            self._all_ended.clear()
            try:
                async with asyncio.timeout(grace_s):
                    await self._all_ended.wait()
            except TimeoutError:
                pass
        for running in list(self._running):
            running.cancel(_SHUTTING_DOWN)
        self._deadlines.close()
        self.moves.close()

    # --- placing ---

    def place_waiting(self) -> None:
        """Place what waits, as far as workers have room."""
        self._waiting.place(self._place)

    def _place(self, running: Running) -> bool:
        """Begin an attempt on the best workers; False while none can take it."""
        if not self._placer.place(running):
            return False
        self._waiting.remove(running)
        self._waiting.note_placement()
        return True

    # --- what becomes of it ---

    def failed(self, running: Running, part: Part, error: BatonError, *, retryable: bool) -> None:
        """A worker gave the request up: try again elsewhere, or end it."""
        ownership = running.ownership
        was_adopted = ownership.is_adopted
        verdict = ownership.failed(
            part.attempt, part.side, error, retryable=retryable, now=self._clock()
        )
        self._follow(verdict, running, part, error, was_adopted=was_adopted)

    def lost(self, running: Running, part: Part, error: BatonError) -> None:
        """A worker is gone, with all that it held of the request."""
        ownership = running.ownership
        was_adopted = ownership.is_adopted
        verdict = ownership.lost(part.attempt, part.side, error, now=self._clock())
        if verdict is Verdict.WAIT:
            asyncio.get_running_loop().call_later(ADOPTION_WAIT_S, self._still_lost, running, part)
        else:
            self._follow(verdict, running, part, error, was_adopted=was_adopted)

    def _still_lost(self, running: Running, part: Part) -> None:
        error = WorkerLostError("the prefill worker was lost before its KV had been handed over")
        self.failed(running, part, error, retryable=True)

    def _replay(self, running: Running, part: Part) -> None:
        """A worker is about to go, and what it does for a request could not be moved."""
        error = WorkerLostError("the worker that it ran on goes away")
        verdict = running.ownership.leave(part.attempt, part.side)
        self._follow(verdict, running, part, error, was_adopted=True)

    def gap(self, running: Running) -> None:
        """Tokens were lost with the worker that the request was moved away from."""
        ownership = running.ownership
        error = WorkerLostError("a worker was lost with the last tokens that it had made")
        verdict = ownership.gap(ownership.attempt, error, now=self._clock())
        self._follow(verdict, running, None, error, was_adopted=True)

    def _follow(
        self,
        verdict: Verdict,
        running: Running,
        part: Part | None,
        error: BatonError,
        *,
        was_adopted: bool,
    ) -> None:
        """Act on a verdict about the current attempt; `part` is to blame."""
        if verdict is Verdict.NOTHING:
            return
        if part is not None and part.side is not Side.ALONE and not was_adopted:
            self.handoffs.failed(part.side, error)
        if verdict is Verdict.ENDED:
            self.release(running)
            return
        self._stop_parts(running)
        running.avoid = frozenset() if part is None else frozenset([part.booking.row])
        self._metrics.retries.labels(error.code).inc()
        self._waiting.add_again(running)
        self.place_waiting()

    def _time_is_up(self, running: Running) -> None:
        model = running.request.model
        if self._clock() >= running.request.deadline:
            if running.is_waiting:
                running.ownership.fail(self._waited_in_vain(model))
            else:
                running.ownership.expire()
        elif model in self._fleet.models_seen:
            # Its first worker came meanwhile.
            running.timer = self._deadlines.add(running, running.request.deadline)
            return
        else:
            running.ownership.fail(self._no_worker(model))
        self.release(running)

    def _no_worker(self, model: str) -> UnavailableError:
        return UnavailableError(
            f"{self._fleet.shortage(model)}; look at `baton workers` and at the workers' logs"
        )

    def _waited_in_vain(self, model: str) -> DeadlineExceededError:
        return DeadlineExceededError(
            f"the request's deadline passed while it waited for a worker: "
            f"{self._fleet.shortage(model)}; look at `baton workers`, start more, or raise the "
            "deadline"
        )

    def release(self, running: Running) -> None:
        """The request has ended: leave nothing of it anywhere. Idempotent."""
        if running not in self._running:
            return
        self._running.remove(running)
        self._deadlines.remove(running, running.timer)
        self._waiting.remove(running)
        self._stop_parts(running)
        if not self._running:
            self._all_ended.set()
        self.place_waiting()

    def _stop_parts(self, running: Running) -> None:
        if running.moves is not None:
            self.moves.dropped(running)
        parts, running.parts = running.parts, []
        for part in parts:
            part.stop()
