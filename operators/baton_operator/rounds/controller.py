"""Rounds: one service at a time each, several services at once, from the queue.

A round observes, decides and performs. Whatever goes wrong in it is logged and waits in the queue;
nothing but the lost Lease ends the process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from baton.telemetry.logging import event
from baton_operator import kinds
from baton_operator.actions import Action
from baton_operator.decide.reconcile import refusal
from baton_operator.decide.troubles import NO_CONFIG, Trouble
from baton_operator.kube.client import Manifest
from baton_operator.kube.lease import LeaseLostError
from baton_operator.kube.object_cache import Cache, Key
from baton_operator.metrics import OperatorMetrics
from baton_operator.rounds.observe import Observer, SpecError
from baton_operator.rounds.perform import Outcome, Performer
from baton_operator.rounds.queue import WorkQueue
from baton_operator.rounds.refusals import Refusals
from baton_operator.seen import Seen

log = logging.getLogger(__name__)

Decide = Callable[[Seen], Sequence[Action]]

# Secrets are written again at once, but not in every round, while a pod misses one.
SECRET_RETRY_S = 30.0


@dataclass(slots=True)
class _Memory:
    """What is kept of a service between rounds; losing it costs calls, nothing else."""

    uid: str
    refusals: Refusals
    secrets_at: float = float("-inf")
    misses_secret: bool = False


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a service gets a round without any event."""

    tick_s: float
    resync_s: float


class Controller:
    """Takes keys from the queue until cancelled. `clock` is monotonic, `now` the time of day."""

    def __init__(
        self,
        cache: Cache,
        queue: WorkQueue[Key],
        observer: Observer,
        decide: Decide,
        performer: Performer,
        metrics: OperatorMetrics,
        pace: Pace,
        on_round: Callable[[Seen], None],
        on_gone: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._cache = cache
        self._queue = queue
        self._observer = observer
        self._decide = decide
        self._performer = performer
        self._metrics = metrics
        self._pace = pace
        self._on_round = on_round
        self._on_gone = on_gone
        self._clock = clock
        self._now = now
        self._memories: dict[Key, _Memory] = {}
        self._running: dict[Key, float] = {}
        self._added = asyncio.Event()
        self._stopping = False

    def add(self, key: Key, *, urgent: bool = False) -> None:
        """Something about this service changed; urgent: its spec."""
        self._queue.add(key, self._clock(), urgent=urgent)
        self._added.set()

    def oldest_round_s(self) -> float:
        """How long the longest round in progress has taken."""
        return self._clock() - min(self._running.values(), default=self._clock())

    async def work(self) -> None:
        """One of several hands. Ends when told to stop, between two rounds."""
        while not self._stopping:
            now = self._clock()
            self._metrics.queue_depth.set(self._queue.depth(now))
            key = self._queue.take(now)
            if key is None:
                await self._wait()
                continue
            self._running[key] = now
            try:
                await self._round(key, self._queue.waited_s(key))
            finally:
                del self._running[key]

    def stop(self) -> None:
        """Begin no further round."""
        self._stopping = True
        self._added.set()

    async def _wait(self) -> None:
        """Until something is due or was added."""
        due = self._queue.next_due()
        self._added.clear()
        try:
            async with asyncio.timeout(None if due is None else max(0.0, due - self._clock())):
                await self._added.wait()
        except TimeoutError:
            pass

    async def _round(self, key: Key, waited_s: float) -> None:
        self._metrics.queue_duration.observe(waited_s)
        began = self._clock()
        try:
            result = await self._attempt(key)
        except LeaseLostError:
            raise
        except Exception:
            # A mistake of ours in one service's round must not stop the others' rounds.
            log.exception(*event("round_failed", namespace=key.namespace, service=key.name))
            self._queue.failed(key, self._clock())
            result = "failed"
        # Another hand may wait for what this round put back.
        self._added.set()
        took_s = self._clock() - began
        self._metrics.reconcile_duration.labels(result).observe(took_s)
        log.debug(
            *event(
                "round",
                namespace=key.namespace,
                service=key.name,
                result=result,
                seconds=round(took_s, 4),
                waited_s=round(waited_s, 4),
            )
        )

    async def _attempt(self, key: Key) -> str:
        manifest = self._cache.service(key)
        if manifest is None:
            self._forget(key)
            return "gone"
        memory = self._memory(key, manifest["metadata"]["uid"])
        refusals, rewrite = memory.refusals, self._secrets_due(memory)
        refusals.begin(manifest["metadata"]["generation"])
        try:
            seen = await self._observer.observe(key, refusals.told, rewrite)
        except SpecError as error:
            return await self._tell_invalid(key, manifest, str(error))
        if seen is None:
            self._forget(key)
            return "gone"
        self._on_round(seen)
        actions = self._decide(seen)
        held = refusals.held_back(actions, self._clock())
        tried = [action for action in actions if action not in held]
        outcome = await self._performer.perform(manifest, seen, tried)
        refusals.note(held, outcome.refusals, self._clock())
        self._remember(memory, seen, outcome, rewrite)
        return self._finish(key, outcome, refusals.next_s(self._clock()))

    def _finish(self, key: Key, outcome: Outcome, retry_s: float | None = None) -> str:
        """`retry_s`: when something that was refused may be tried again."""
        now = self._clock()
        if outcome.problems:
            wait = self._queue.failed(key, now, outcome.wait_s)
        else:
            waits = (self._pace.tick_s, outcome.again_s, retry_s)
            wait = min(each for each in waits if each is not None)
            self._queue.done(key, now, wait)
        if outcome.result != "ok":
            log.warning(
                *event(
                    "round_incomplete",
                    namespace=key.namespace,
                    service=key.name,
                    problems=outcome.problems[:5],
                    refused=len(outcome.refused),
                    again_in_s=round(wait, 1),
                )
            )
        return outcome.result

    async def _tell_invalid(self, key: Key, manifest: Manifest, problem: str) -> str:
        """The schema let something through that this operator does not understand."""
        status = manifest.get("status") or {}
        generation = manifest["metadata"]["generation"]
        trouble = Trouble("SpecInvalid", problem)
        actions = refusal(key.name, generation, status, trouble, self._now())
        outcome = await self._performer.perform(manifest, None, actions)
        outcome.problems.append(problem)
        return self._finish(key, outcome)

    def _memory(self, key: Key, uid: str) -> _Memory:
        memory = self._memories.get(key)
        if memory is None or memory.uid != uid:
            if memory is not None:
                self._on_gone(memory.uid)
            memory = self._memories[key] = _Memory(uid, Refusals(self._queue.backoff))
        return memory

    def _secrets_due(self, memory: _Memory) -> bool:
        since = self._clock() - memory.secrets_at
        return since >= (SECRET_RETRY_S if memory.misses_secret else self._pace.resync_s)

    def _remember(self, memory: _Memory, seen: Seen, outcome: Outcome, rewrite: bool) -> None:
        # A Secret that was refused stays wanted, and its refusal told, until it is written.
        kept_out = any(each.kind == kinds.SECRET.kind for each in memory.refusals.told)
        if rewrite and not outcome.problems and not kept_out:
            memory.secrets_at = self._clock()
        memory.misses_secret = any(pod.reason in NO_CONFIG for pod in seen.pods) or any(
            warning.reason in NO_CONFIG for warning in seen.events
        )

    def _forget(self, key: Key) -> None:
        memory = self._memories.pop(key, None)
        if memory is not None:
            self._on_gone(memory.uid)
        self._metrics.forget(key)
        self._queue.forget(key)
        if key in self._running:
            self._queue.done(key, self._clock())
