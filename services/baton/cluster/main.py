"""The cluster process: starts Ray, keeps the pools at their target, and takes Ray down with it.

`baton serve` starts it as `python -m baton.cluster.main` in a session of its own and speaks
`cluster.protocol` with it. It exists so that the gateway's process never imports Ray: a Ray driver
may exit when its head is lost, and open streams must not go with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn

from baton.cluster import ray_head
from baton.cluster.placement import place
from baton.cluster.pools import targets
from baton.cluster.processes import adopt_orphans, kill_session, reap
from baton.cluster.protocol import ClusterConfig, Command, Event
from baton.core.errors import BatonError, UnavailableError

TICK_S = 0.1
PROBE_EVERY_S = 1.0
# A stop gives the workers this long to leave the store, then kills everything.
GOODBYE_S = 0.7
# The main thread may be inside ray.init(): after this long the end of input ends everything.
STUCK_S = 2.5


def claim_stdout() -> BinaryIO:
    """The real standard output, for events alone: what others print goes to standard error."""
    mine = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return mine


class Input:
    """Reads commands on a thread; `ended` is set when the parent closed the pipe or is gone."""

    def __init__(self, stream: BinaryIO, stuck: Callable[[], None]) -> None:
        self._stream = stream
        self._stuck = stuck
        self.commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self.ended = threading.Event()
        threading.Thread(target=self._read, name="commands", daemon=True).start()

    def _read(self) -> None:
        for line in self._stream:
            with contextlib.suppress(ValueError):
                self.commands.put(json.loads(line))
        self.ended.set()
        # The orderly stop exits the process before this sleep is over.
        time.sleep(STUCK_S)
        self._stuck()


class ClusterProcess:
    """One Ray and its pools, from start to end. `run` on the main thread."""

    def __init__(self, config: ClusterConfig, events: BinaryIO, commands: BinaryIO) -> None:
        self._config = config
        self._groups = config.groups()
        self._events = events
        self._input = Input(commands, self.exit)
        self._actors: Any = None
        self._serving = False

    def run(self, actor_class: Any = None) -> NoReturn:
        """Serve until the parent says stop; exits the process."""
        try:
            self._start(actor_class)
            self._loop()
            self._say_goodbye()
            self.exit()
        except BatonError as error:
            self._emit({"event": "error", "code": error.code, "message": error.message})
        except Exception as error:
            traceback.print_exc()
            message = f"the cluster process broke: {error!r}"
            self._emit({"event": "error", "code": "internal_error", "message": message})
        self.exit(1)

    def exit(self, status: int = 0) -> NoReturn:
        """Leave no process and no file. Ray's own exit handlers would take seconds: skip them."""
        # Actors in a cluster that is not ours end with their driver: Ray sees to it.
        # Only when the session is ours; by hand it may hold somebody's shell.
        if os.getsid(0) == os.getpid():
            kill_session(os.getpid())
            reap()
        shutil.rmtree(self._config.temp_dir, ignore_errors=True)
        os._exit(status)

    def _start(self, actor_class: Any) -> None:
        groups = self._groups
        target = targets(groups.pools)
        num_workers = sum(target.values())
        started = time.monotonic()
        self._emit({"event": "stage", "name": "ray"})
        head = ray_head.start(groups.cluster, self._config.temp_dir, num_workers)
        self._probe = ray_head.HeadProbe(head)
        self._emit({"event": "stage", "name": "ray", "seconds": time.monotonic() - started})

        import ray

        from baton.cluster.actors import Actors

        if actor_class is None:
            from baton.worker.actor import WorkerActor as actor_class
        cores = float(len(os.sched_getaffinity(0)))
        placement = place(
            groups,
            {**ray.cluster_resources(), "cores": cores},
            num_workers,
            local=groups.cluster.ray_address is None,
        )
        self._actors = Actors(
            actor_class,
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

    def _say_goodbye(self) -> None:
        """Let the workers leave the store before they are killed."""
        self._actors.drain_all(0.0, GOODBYE_S, lambda: False)

    def _emit(self, event: Event) -> None:
        # A parent that is gone reads nothing; the end of input says so too.
        with contextlib.suppress(OSError):
            self._events.write(json.dumps(event).encode() + b"\n")


def main(actor_class: Any = None) -> NoReturn:
    """Read the configuration from standard input and run."""
    # The parent decides: a Ctrl-C in its terminal is not for us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    adopt_orphans()
    events = claim_stdout()
    config = ClusterConfig.model_validate_json(sys.stdin.buffer.readline())
    ClusterProcess(config, events, sys.stdin.buffer).run(actor_class)


if __name__ == "__main__":
    main()
