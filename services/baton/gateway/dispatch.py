"""From a request to workers and back: placement or a queue, retries, deadlines, cancels.

Implements `generation.Generator`. Everything runs on the gateway's event loop and nothing waits:
one object per request, no task.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from baton.core.clock import Clock, monotonic
from baton.core.errors import (
    BatonError,
    ModelNotFoundError,
    UnavailableError,
    WorkerLostError,
)
from baton.core.request import Request
from baton.core.settings import GatewaySettings
from baton.gateway.deadlines import Deadlines
from baton.gateway.generation import TokenSink
from baton.gateway.handoff_metrics import HandoffMetrics
from baton.gateway.moves import Moves
from baton.gateway.ownership import Ownership, Side, Verdict
from baton.gateway.part import Part
from baton.gateway.placer import Placer
from baton.gateway.queue.overload import Overload
from baton.gateway.queue.waiting import Waiting
from baton.gateway.running import Running
from baton.gateway.workers.fleet import Fleet
from baton.gateway.workers.prefix_lookup import PrefixLookup
from baton.router.policy.base import Policy
from baton.telemetry.logging import event
from baton.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

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
        prefixes: PrefixLookup | None = None,
    ) -> None:
        self._fleet = fleet
        self._settings = settings
        self._metrics = metrics
        self._models = frozenset(models)
        self._clock = clock
        self._is_stopping = False
        self._running: set[Running] = set()
        self._placer = Placer(fleet, policy, prefixes, metrics, clock, seed)
        overload = Overload(settings, fleet.pool, self._placer.view, clock)
        self._waiting = Waiting(fleet, settings, overload, metrics, clock, self._turn_away)
        self.shares = self._waiting.shares
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

    # --- Generator ---

    def submit(self, request: Request, sink: TokenSink) -> Running:
        """Queue or place a request; see `generation.Generator`."""
        self._admit(request.model)
        ownership = Ownership(request, sink, self._settings.max_attempts)
        running = Running(self, request, ownership, self._clock)
        self._waiting.admit(running)
        if not (self._waiting.goes_first(running) and self._place(running)):
            self._waiting.add(running)
        self._running.add(running)
        running.timer = self._deadlines.add(running, request.deadline)
        return running

    def _admit(self, model: str) -> None:
        if self._is_stopping:
            raise UnavailableError(_SHUTTING_DOWN)
        if model not in self._models and model not in self._fleet.models_seen:
            known = ", ".join(sorted(self._models | self._fleet.models_seen)) or "none yet"
            raise ModelNotFoundError(f"no model {model!r} here; there is: {known}", param="model")

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
        try:
            self._waiting.place(self._place)
        except Exception:
            # It is asked by those who hear of workers, and they must not pay for it.
            log.exception(*event("placing_failed"))

    def _place(self, running: Running) -> bool:
        """Begin an attempt on the best workers; False while none can take it."""
        if not self._placer.place(running):
            return False
        running.note_placement()
        self._waiting.placed(running)
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
        running.note_failure(part, error)
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
        if running.is_waiting:
            running.ownership.fail(self._waiting.expired(running))
        else:
            running.ownership.expire()
        self.release(running)

    def _turn_away(self, running: Running, error: BatonError) -> None:
        """It waits, and is not to be served."""
        running.ownership.fail(error)
        self.release(running)

    def release(self, running: Running) -> None:
        """The request has ended: leave nothing of it anywhere. Idempotent."""
        if running not in self._running:
            return
        self._running.remove(running)
        self._deadlines.remove(running, running.timer)
        self._waiting.ended(running)
        self._placer.ended(running)
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
