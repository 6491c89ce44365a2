"""The Ray shell around a worker. The only module of this package that knows Ray."""

from __future__ import annotations

from typing import Any

import ray

from baton.telemetry import logging
from baton.worker.config import WorkerConfig
from baton.worker.process import WorkerProcess


@ray.remote
class WorkerActor:
    """Starts its worker when it is constructed, so that a restarted actor serves by itself."""

    def __init__(self, config: dict[str, Any]) -> None:
        parsed = WorkerConfig.model_validate(config)
        logging.setup(parsed.settings.log.level, parsed.settings.log.format)
        self._worker = WorkerProcess(parsed)
        self._worker.start()

    def ready(self) -> dict[str, Any]:
        """Answers once the worker serves; `info()`."""
        return self._worker.info()

    def info(self) -> dict[str, Any]:
        """worker_id, pid, address, state, health."""
        return self._worker.info()

    def stop(self, grace_s: float | None = None) -> None:
        """Drain for up to `grace_s` (by default worker.drain_grace_s), then leave the store."""
        self._worker.stop(grace_s)
