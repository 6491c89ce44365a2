"""`baton worker`"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading

from baton.cli.flags import WORKER, with_settings
from baton.cli.store_address import named_store
from baton.core.settings import Settings


@with_settings(WORKER)
def worker(settings: Settings) -> None:
    """Run one worker in this process; SIGTERM and Ctrl-C drain it, a second one ends it at once."""
    from baton.cli.token_file import deployment_token
    from baton.core import model_folder
    from baton.core.redact import redact_url
    from baton.telemetry import logging

    store_url = named_store(settings)
    logging.setup(settings.log.level, settings.log.format)
    role = settings.worker.role
    asked = _on_signals()
    folder = model_folder.resolve(settings.model.source, settings.model.revision)
    token, _ = deployment_token(settings)

    from baton.worker.config import WorkerConfig, WorkerGroups
    from baton.worker.worker import Worker

    config = WorkerConfig(
        settings=WorkerGroups.model_validate(settings.model_dump()),
        role=role,
        worker_id=settings.worker.worker_id or f"{role}-{secrets.token_hex(4)}",
        model_folder=str(folder),
        model_name=settings.model.name or model_folder.served_name(settings.model.source),
        store_url=store_url,
        token=token,
        num_threads=settings.engine.num_threads or len(os.sched_getaffinity(0)),
    )
    running = Worker(config)
    running.start()
    info = running.info()
    print(f"worker {info['worker_id']} serves at {info['address']}", file=sys.stderr, flush=True)
    if not running.is_registered:
        print(
            f"baton: the store at {redact_url(store_url)} does not answer, so no gateway "
            "finds this worker yet; it goes on trying: start the store, or check --store",
            file=sys.stderr,
            flush=True,
        )
    asked.wait()
    running.stop()


def _on_signals() -> threading.Event:
    """Set by the first signal; the second ends the process."""
    asked = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if asked.is_set():
            os._exit(128 + number)
        asked.set()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    return asked
