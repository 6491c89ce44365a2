"""`baton worker`"""

from __future__ import annotations

import os
import queue
import secrets
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import typer

from baton.cli.flags import WORKER, with_settings
from baton.cli.stopping import is_repeat
from baton.cli.store_address import named_store
from baton.core import hub
from baton.core.errors import ConfigError
from baton.core.settings import Settings
from baton.worker.lifecycle import WorkerState

if TYPE_CHECKING:
    from baton.worker.worker import Worker


@with_settings(WORKER)
def worker(settings: Settings) -> None:
    """Run one worker in this process; SIGTERM and Ctrl-C drain it, a second one ends it at once.

    Exit status 0: it was asked to leave, and left in order.
    """
    from baton.cli.token_file import deployment_token
    from baton.core import model_folder
    from baton.core.redact import redact_url
    from baton.telemetry import logging

    if settings.worker.join is not None:
        from baton.cli import ray_worker

        logging.setup(settings.log.level, settings.log.format)
        raise typer.Exit(ray_worker.join(settings))
    if settings.worker.num_nodes > 1 and not settings.worker.ray:
        raise ConfigError("worker.num_nodes above 1 needs --ray, by which the nodes are one")
    store_url = named_store(settings)
    logging.setup(settings.log.level, settings.log.format)
    stopping = None if settings.worker.ray else _Stopping()
    role = settings.worker.role
    worker_id = settings.worker.worker_id or f"{role}-{secrets.token_hex(4)}"
    token, _ = deployment_token(settings)

    from baton.worker.config import WorkerConfig, WorkerGroups

    config = WorkerConfig(
        settings=WorkerGroups.model_validate(settings.model_dump()),
        role=role,
        worker_id=worker_id,
        model_folder=None,
        model_name=settings.model.name or model_folder.served_name(settings.model.source),
        store_url=store_url,
        token=token,
        num_threads=settings.engine.num_threads or len(os.sched_getaffinity(0)),
    )
    if stopping is None:
        from baton.cli import ray_worker

        raise typer.Exit(ray_worker.run(settings, config, say_ready))
    from baton.worker.process import WorkerProcess

    running = WorkerProcess(config)
    stopping.worker = running.worker
    running.start()
    say_ready(running.info())
    if not running.worker.is_registered:
        print(
            f"baton: the store at {redact_url(store_url)} does not answer, so no gateway "
            "finds this worker yet; it goes on trying: start the store, or check --store",
            file=sys.stderr,
            flush=True,
        )
    stopping.wait()
    running.stop()


def say_ready(info: dict[str, Any]) -> None:
    """One line, with the addresses."""
    health = f", health at {info['health']}" if info["health"] else ""
    text = f"worker {info['worker_id']} serves at {info['address']}{health}"
    print(text, file=sys.stderr, flush=True)


class _Stopping:
    """Signals to this process: the first asks it to leave, a further one ends it at once.

    So does the first before there is a worker that serves: nothing is to be drained.
    """

    def __init__(self) -> None:
        self.worker: Worker | None = None
        # Its `put` may be called while the same thread is inside `get`, unlike an event's `set`.
        self._asked: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._first: int | None = None
        self._first_at = 0.0
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)

    def wait(self) -> None:
        """Until somebody asks."""
        self._asked.get()

    def _on_signal(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if self.worker is None or self.worker.state is WorkerState.STARTING:
            hub.drop_open_parts()
            os.write(2, b"baton: the worker was told to stop while it started\n")
            os._exit(0 if number == signal.SIGTERM else 128 + number)
        if self._first is None:
            self._first, self._first_at = number, now
            self._asked.put(None)
        elif not is_repeat(self._first, number, now - self._first_at):
            os._exit(128 + number)
