"""A Ray for one worker alone, as in a pod: `baton worker --ray` starts it, see `ray_process`.

Nobody is started again here. A worker that dies ends this process, and with it the container, so
that Kubernetes sees it, counts it and waits longer each time. A head that dies ends nothing: a
worker needs none to serve, and to leave would turn a harmless loss into one of capacity, on a
machine that is short of memory perhaps that of all its pods at once. Only Ray itself sets an end:
its processes give up a while after their head, so before that the worker drains and leaves in
order.

A worker of several nodes has a Ray that the others join (`joined_node`), and starts once they have.
None of them can do without another: its end, or the head's, ends the worker at once.
"""

from __future__ import annotations

import contextlib
import os
import queue
import time
from typing import Any, BinaryIO, NoReturn

from baton.cluster.failure import explain
from baton.cluster.other_nodes import OtherNodes, joined
from baton.cluster.placement import place
from baton.cluster.processes import is_alive
from baton.cluster.protocol import ClusterConfig
from baton.cluster.ray_env import RECONNECT_TIMEOUT_S
from baton.cluster.ray_process import RayProcess, begin
from baton.core.errors import UnavailableError

TICK_S = 0.1
PROBE_EVERY_S = 1.0
# Beyond its grace, for a worker that leaves the store.
STOP_MARGIN_S = 5.0
# How long a worker serves on without Ray's head; well before its raylet would end it.
HEADLESS_S = RECONNECT_TIMEOUT_S / 2


class OneWorker(RayProcess):
    """One Ray and one worker, which has one rank and so is one actor, on this node."""

    def __init__(
        self,
        config: ClusterConfig,
        events: BinaryIO,
        commands: BinaryIO,
        headless_s: float = HEADLESS_S,
    ) -> None:
        super().__init__(config, events, commands)
        self._headless_s = headless_s
        self._worker_id = self._groups.worker.worker_id or ""
        self._actor: Any = None
        self._pid = 0
        self._others = OtherNodes([])

    def _serve(self) -> None:
        worker = self._groups.worker
        self._probe = self._start_ray(1, worker.host if worker.num_nodes > 1 else None)
        # The parent closes its end to stop a worker that does not serve yet.
        if self._await_nodes() and self._start_worker():
            self._watch()

    def _await_nodes(self) -> bool:
        """True once all are there, False when the input ended before."""
        wanted = self._groups.worker.num_nodes
        if wanted > 1:
            others = joined(
                wanted,
                self._input.ended,
                lambda count: self._emit({"event": "nodes", "joined": count, "wanted": wanted}),
            )
            if others is None:
                return False
            self._others = OtherNodes(others)
        return True

    def _start_worker(self) -> bool:
        """True once it serves, False when the input ended before. However long it takes: it may be
        a download, and a startup probe bounds it."""
        import ray
        from ray.exceptions import RayActorError

        from baton.worker.actor import WorkerActor

        started = time.monotonic()
        self._tell("starting")
        actor_class: Any = WorkerActor
        self._actor = actor_class.options(**self._options(ray.cluster_resources())).remote(
            {
                "settings": self._config.settings,
                "role": self._groups.worker.role,
                "worker_id": self._worker_id,
                "model_folder": self._config.model_folder,
                "model_name": self._config.model_name,
                "store_url": self._config.store_url,
                "token": self._config.token,
                "num_threads": self._num_threads,
            }
        )
        answer = self._actor.ready.remote()
        while not ray.wait([answer], timeout=TICK_S)[0]:
            if self._input.ended.is_set():
                return False
            self._others.check()
        try:
            info = ray.get(answer)
        except RayActorError as error:
            raise explain(self._worker_id, str(error)) from None
        self._pid = info["pid"]
        self._tell(
            "ready",
            pid=self._pid,
            address=info["address"],
            health=info["health"],
            seconds=time.monotonic() - started,
        )
        self._emit({"event": "ready"})
        return True

    def _options(self, resources: dict[str, float]) -> dict[str, Any]:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        cores = float(len(os.sched_getaffinity(0)))
        placement = place(self._groups, {**resources, "cores": cores}, 1, local=True)
        self._num_threads = placement.num_threads
        # Probes and gateways come to this node's address.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return {**placement.options, "max_restarts": 0, "scheduling_strategy": here}

    def _watch(self) -> None:
        """Until the worker is told to leave, or is dead."""
        probe_at = 0.0
        leave_at: float | None = None
        while not self._input.ended.is_set():
            self._check_alive()
            now = time.monotonic()
            if leave_at is None and now >= probe_at:
                probe_at = now + PROBE_EVERY_S
                if not self._probe.probe():
                    leave_at = now + self._headless_s
                    self._emit({"event": "ray_lost"})
            if leave_at is not None and now >= leave_at:
                self._drain(self._groups.worker.drain_grace_s)
                raise UnavailableError(
                    f"Ray's head has been gone for {self._headless_s:.0f} s; the worker has left "
                    "in order, start it again"
                )
            with contextlib.suppress(queue.Empty):
                command = self._input.commands.get(timeout=TICK_S)
                if "retire" in command:
                    self._drain(float(command["retire"]))
                    return

    def _drain(self, grace_s: float) -> None:
        """Have the worker drain and leave the store. Works without Ray's head."""
        import ray

        left = self._actor.stop.remote(grace_s)
        deadline = time.monotonic() + grace_s + STOP_MARGIN_S
        while not ray.wait([left], timeout=TICK_S)[0]:
            self._check_alive()
            if self._input.ended.is_set() or time.monotonic() > deadline:
                return

    def _check_alive(self) -> None:
        self._others.check()
        if self._others and self._probe.lost:
            raise UnavailableError("Ray's head died, and with it this worker's other nodes")
        # The process rather than the actor: without its head Ray learns of no death.
        if not is_alive(self._pid):
            raise UnavailableError(f"{self._worker_id} died; its log says why")

    def _tell(self, state: str, **fields: Any) -> None:
        role = self._groups.worker.role
        said = {"event": "worker", "worker_id": self._worker_id, "role": role, "state": state}
        self._emit({**said, **fields})


def main() -> NoReturn:
    """Read the configuration from standard input and run."""
    begin(OneWorker)


if __name__ == "__main__":
    main()
