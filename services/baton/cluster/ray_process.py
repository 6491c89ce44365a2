"""A process that drives Ray for a parent: what all of them do.

The parent (`cluster.child`) starts one as `python -m MODULE` in a session of its own and speaks
`cluster.protocol` with it. It exists so that the parent never imports Ray: a Ray driver may exit
when its head is lost, and whatever else the parent does must not go with it.
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
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import BinaryIO, NoReturn

from baton.cluster import ray_head
from baton.cluster.processes import adopt_orphans, kill_session, reap
from baton.cluster.protocol import ClusterConfig, Command, Event
from baton.cluster.ray_head import PortProbe
from baton.core.errors import BatonError

# The main thread may be inside ray.init(): after this long the end of input ends everything.
STUCK_S = 2.5


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


class RayProcess(ABC):
    """One Ray from start to end. `run` on the main thread."""

    def __init__(self, config: ClusterConfig, events: BinaryIO, commands: BinaryIO) -> None:
        self._config = config
        self._groups = config.groups()
        self._events = events
        self._input = Input(commands, self.exit)

    @abstractmethod
    def _serve(self) -> None:
        """Everything between a Ray that is to be started and the end. May raise BatonError."""

    def run(self) -> NoReturn:
        """Serve until the parent says stop; exits the process."""
        try:
            self._serve()
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

    def _start_ray(self, num_workers: int, host: str | None = None) -> PortProbe:
        """Start a local Ray, or join one; the probe tells when its head is lost. With `host` other
        nodes may join."""
        started = time.monotonic()
        self._emit({"event": "stage", "name": "ray"})
        head = ray_head.start(self._groups.cluster, self._config.temp_dir, num_workers, host)
        self._emit({"event": "stage", "name": "ray", "seconds": time.monotonic() - started})
        return PortProbe(head)

    def _emit(self, event: Event) -> None:
        # A parent that is gone reads nothing; the end of input says so too.
        with contextlib.suppress(OSError):
            self._events.write(json.dumps(event).encode() + b"\n")


def begin(make: Callable[[ClusterConfig, BinaryIO, BinaryIO], RayProcess]) -> NoReturn:
    """Read the configuration from standard input and run what `make` makes of it."""
    # The parent decides: a Ctrl-C in its terminal is not for us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    adopt_orphans()
    events = _claim_stdout()
    config = ClusterConfig.model_validate_json(sys.stdin.buffer.readline())
    make(config, events, sys.stdin.buffer).run()


def _claim_stdout() -> BinaryIO:
    """The real standard output, for events alone: what others print goes to standard error."""
    mine = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return mine
