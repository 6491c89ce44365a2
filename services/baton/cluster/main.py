"""The cluster process: starts Ray, keeps the pools at their target, and takes Ray down with it.

`baton serve` starts it, see `ray_process`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import time
from typing import Any, BinaryIO, NoReturn

from baton.cluster.placement import place
from baton.cluster.pools import targets
from baton.cluster.protocol import ClusterConfig
from baton.cluster.ray_process import RayProcess, begin
from baton.core.errors import BatonError, UnavailableError

TICK_S = 0.1
PROBE_EVERY_S = 1.0
# A stop gives the workers this long to leave the store, then kills everything.
GOODBYE_S = 0.7


class ClusterProcess(RayProcess):
    """One Ray and its pools."""

    def __init__(
        self, config: ClusterConfig, events: BinaryIO, commands: BinaryIO, actor_class: Any
    ) -> None:
        """`actor_class` None: the worker's own, which is imported once Ray runs."""
        super().__init__(config, events, commands)
        self._actor_class = actor_class
        self._actors: Any = None
        self._serving = False

    def _serve(self) -> None:
        self._start()
        self._loop()
        # Let the workers leave the store before they are killed.
        self._actors.drain_all(0.0, GOODBYE_S, lambda: False)

    def _start(self) -> None:
        groups = self._groups
        target = targets(groups.pools)
        num_workers = sum(target.values())
        self._probe = self._start_ray(num_workers)

        import ray

        from baton.cluster.actors import Actors
        from baton.worker.actor import WorkerActor

        cores = float(len(os.sched_getaffinity(0)))
        placement = place(
            groups,
            {**ray.cluster_resources(), "cores": cores},
            num_workers,
            local=groups.cluster.ray_address is None,
        )
        self._actors = Actors(
            self._actor_class or WorkerActor,
            self._config,
            placement,
            target,
            self._probe.probe,
            self._emit,
            self._on_failed,
        )

    def _on_failed(self, error: BatonError) -> None:
        """A worker that cannot start ends a deployment that never served, and no other."""
        if not self._serving:
            raise error

    def _loop(self) -> None:
        timeout_s = self._groups.cluster.start_timeout_s
        started = time.monotonic()
        probe_at = 0.0
        while not self._input.ended.is_set():
            self._actors.step()
            now = time.monotonic()
            if not self._serving and self._actors.all_ready:
                self._serving = True
                self._emit({"event": "ready"})
            if not self._serving and now - started > timeout_s:
                waiting = ", ".join(self._actors.waiting_for())
                raise UnavailableError(
                    f"not ready after {timeout_s:.0f} s: {waiting} (cluster.start_timeout_s)"
                )
            if now >= probe_at:
                probe_at = now + PROBE_EVERY_S
                if not self._probe.probe():
                    self._serve_headless()
                    return
            self._obey()

    def _serve_headless(self) -> None:
        """Ray can start nothing any more, but its workers live: keep them until told otherwise."""
        self._emit({"event": "ray_lost"})
        while not self._input.ended.is_set():
            with contextlib.suppress(queue.Empty):
                command = self._input.commands.get(timeout=TICK_S)
                if "retire" in command:
                    grace_s = float(command["retire"])
                    self._actors.drain_all(grace_s, grace_s + 1, self._input.ended.is_set)
                    return

    def _obey(self) -> None:
        with contextlib.suppress(queue.Empty):
            command = self._input.commands.get(timeout=TICK_S)
            if "set" in command:
                self._actors.target = dict(command["set"])
            elif "stop_worker" in command:
                self._actors.remove(command["stop_worker"], float(command.get("grace_s", 0)))
            elif "retire" in command:
                grace_s = float(command["retire"])
                self._actors.drain_all(grace_s, grace_s + 1, self._input.ended.is_set)
                self._input.ended.set()


def main(actor_class: Any = None) -> NoReturn:
    """Read the configuration from standard input and run."""
    begin(lambda config, events, commands: ClusterProcess(config, events, commands, actor_class))


if __name__ == "__main__":
    main()
