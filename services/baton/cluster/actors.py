"""The Ray shell around pools: starts, watches and stops actors, as `pools.reconcile` says."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError

from baton.cluster.failure import explain
from baton.cluster.placement import Placement
from baton.cluster.pools import SeenWorker, Start, WorkerStatus, reconcile
from baton.cluster.protocol import ClusterConfig, Event
from baton.core.errors import BatonError, UnavailableError

# Between two questions to a worker: while it starts, and while it serves.
ASK_STARTING_S = 0.2
ASK_READY_S = 2.0
MAX_RETRY_S = 30.0
# Longest wait for an actor to say goodbye beyond the grace it was given.
STOP_MARGIN_S = 5.0
# Processes that an actor may lose in a row, without serving, before it counts as failed.
MAX_CRASHES = 3
COUNT_CRASHES_S = 1.0

_SERVING = (WorkerStatus.READY, WorkerStatus.DRAINING)


@dataclass
class _Actor:
    worker_id: str
    role: str
    handle: Any
    status: WorkerStatus
    since: float
    question: Any = None
    ask_at: float = 0.0
    pid: int | None = None
    num_failures: int = 0
    num_restarts: int = 0
    count_at: float = 0.0
    retry_at: float = 0.0
    stop_by: float = 0.0


class Actors:
    """Every worker of one Ray. `step()` often; nothing here blocks.

    `failed(error)` is called when a worker's constructor gives up; the worker is started again
    later, unless the callee raises.
    """

    def __init__(
        self,
        actor_class: Any,
        config: ClusterConfig,
        placement: Placement,
        target: dict[str, int],
        head_alive: Callable[[], bool],
        emit: Callable[[Event], None],
        failed: Callable[[BatonError], None],
    ) -> None:
        self._class = actor_class
        self._config = config
        self._placement = placement
        self.target = target
        self._head_alive = head_alive
        self._emit = emit
        self._failed = failed
        self._drain_grace_s = config.groups().worker.drain_grace_s
        self._actors: dict[str, _Actor] = {}

    @property
    def all_ready(self) -> bool:
        """As many serve as there should be."""
        ready = [a.role for a in self._actors.values() if a.status in _SERVING]
        return all(ready.count(role) == count for role, count in self.target.items())

    def waiting_for(self) -> list[str]:
        """Ids of the workers that do not serve yet."""
        return [a.worker_id for a in self._actors.values() if a.status < WorkerStatus.DRAINING]

    def step(self) -> None:
        """Hear from the actors, then start and stop what the target asks for."""
        self._listen()
        now = time.monotonic()
        starting = any(a.status is WorkerStatus.STARTING for a in self._actors.values())
        seen = [
            SeenWorker(a.worker_id, a.role, a.status, a.retry_at) for a in self._actors.values()
        ]
        actions = reconcile(self.target, seen, now, self._config.generation)
        # Without its head Ray would block in these until there is one again.
        if (starting or actions) and self._head_alive():
            self._count_crashes(now)
            for action in actions:
                if isinstance(action, Start):
                    self._start(action)
                else:
                    self.stop(action.worker_id, self._drain_grace_s)
        self._ask(now)

    def remove(self, worker_id: str, grace_s: float) -> None:
        """Drain and stop one named worker, and do not replace it. Unknown ids are ignored."""
        actor = self._actors.get(worker_id)
        if actor is not None and actor.status is not WorkerStatus.STOPPING:
            self.target[actor.role] = max(0, self.target.get(actor.role, 0) - 1)
            self.stop(worker_id, grace_s)

    def stop(self, worker_id: str, grace_s: float) -> None:
        """Have a worker drain and leave; its process is killed when it has, or has not in time."""
        actor = self._actors[worker_id]
        if actor.status is WorkerStatus.FAILED:
            del self._actors[worker_id]
            return
        if actor.status is WorkerStatus.STARTING:
            grace_s = 0.0
        actor.status = WorkerStatus.STOPPING
        actor.stop_by = time.monotonic() + grace_s + STOP_MARGIN_S
        actor.question = actor.handle.stop.remote(grace_s)

    def drain_all(self, grace_s: float, wait_s: float, cancelled: Callable[[], bool]) -> None:
        """Stop every worker and wait up to `wait_s` for it. The processes stay; works headless."""
        left = [
            a.handle.stop.remote(grace_s)
            for a in self._actors.values()
            if a.status is not WorkerStatus.FAILED
        ]
        deadline = time.monotonic() + wait_s
        while left and time.monotonic() < deadline and not cancelled():
            _, left = ray.wait(left, num_returns=len(left), timeout=0.1)

    # --- one actor ---

    def _start(self, action: Start) -> None:
        old = self._actors.get(action.worker_id)
        handle = self._class.options(**self._placement.options).remote(
            {
                "settings": self._config.settings,
                "role": action.role,
                "worker_id": action.worker_id,
                "model_folder": self._config.model_folder,
                "model_name": self._config.model_name,
                "store_url": self._config.store_url,
                "token": self._config.token,
                "num_threads": self._placement.num_threads,
            }
        )
        actor = _Actor(
            action.worker_id,
            action.role,
            handle,
            WorkerStatus.STARTING,
            time.monotonic(),
            num_failures=old.num_failures if old else 0,
        )
        self._actors[action.worker_id] = actor
        self._tell(actor, "starting")

    def _ask(self, now: float) -> None:
        for actor in self._actors.values():
            failed = actor.status is WorkerStatus.FAILED
            if actor.question is None and now >= actor.ask_at and not failed:
                actor.question = actor.handle.ready.remote()

    def _listen(self) -> None:
        waiting = {a.question: a for a in self._actors.values() if a.question is not None}
        if waiting:
            answered, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
            for reference in answered:
                self._hear(waiting[reference], reference)
        now = time.monotonic()
        for actor in list(self._actors.values()):
            if actor.status is WorkerStatus.STOPPING and now > actor.stop_by:
                self._end(actor)

    def _hear(self, actor: _Actor, reference: Any) -> None:
        actor.question = None
        try:
            answer = ray.get(reference)
        except RayActorError as error:
            self._hear_of_death(actor, error)
            return
        except Exception as error:
            # A worker that answers with an error is alive: ask again.
            if actor.status is WorkerStatus.STOPPING:
                self._end(actor)
            else:
                actor.ask_at = time.monotonic() + ASK_READY_S
                self._tell(actor, "unwell", message=str(error))
            return
        if actor.status is WorkerStatus.STOPPING:
            self._end(actor)
            return
        now = time.monotonic()
        if answer["pid"] != actor.pid:
            actor.pid = answer["pid"]
            seconds = now - actor.since
            self._tell(actor, "ready", pid=actor.pid, address=answer["address"], seconds=seconds)
        drains = answer["state"] == "draining"
        actor.status = WorkerStatus.DRAINING if drains else WorkerStatus.READY
        actor.num_failures = 0
        actor.count_at = 0.0
        actor.ask_at = now + ASK_READY_S

    def _hear_of_death(self, actor: _Actor, error: RayActorError) -> None:
        now = time.monotonic()
        if actor.status is WorkerStatus.STOPPING:
            self._end(actor)
            return
        if not isinstance(error, ActorDiedError):
            # Its process ended, and Ray is starting another.
            if actor.status in _SERVING:
                actor.status, actor.since = WorkerStatus.STARTING, now
                self._tell(actor, "restarting")
            actor.ask_at = now + ASK_STARTING_S
            return
        self._fail(actor, explain(actor.worker_id, str(error)))

    def _count_crashes(self, now: float) -> None:
        """Ray restarts a crashing constructor for ever and never says so: look."""
        for actor in self._actors.values():
            if actor.status is WorkerStatus.STARTING and now >= actor.count_at:
                # Private, and the only way without Ray's dashboard.
                table = ray._private.state.actors(actor.handle._actor_id.hex())
                num_restarts = int(table.get("NumRestarts", 0))
                if actor.count_at == 0.0:
                    actor.num_restarts = num_restarts
                actor.count_at = now + COUNT_CRASHES_S
                if num_restarts - actor.num_restarts >= MAX_CRASHES:
                    ray.kill(actor.handle, no_restart=True)
                    message = f"{actor.worker_id} keeps crashing while it starts"
                    self._fail(actor, UnavailableError(message))

    def _fail(self, actor: _Actor, error: BatonError) -> None:
        actor.status = WorkerStatus.FAILED
        actor.question = None
        actor.num_failures += 1
        actor.retry_at = time.monotonic() + min(MAX_RETRY_S, 2.0 ** (actor.num_failures - 1))
        self._tell(actor, "failed", message=error.message)
        self._failed(error)

    def _end(self, actor: _Actor) -> None:
        ray.kill(actor.handle, no_restart=True)
        del self._actors[actor.worker_id]
        self._tell(actor, "stopped")

    def _tell(self, actor: _Actor, state: str, **fields: Any) -> None:
        self._emit(
            {
                "event": "worker",
                "worker_id": actor.worker_id,
                "role": actor.role,
                "state": state,
                **fields,
            }
        )
