"""A worker together with the server that tells how it is; for a process of its own."""

from __future__ import annotations

from typing import Any

from baton.telemetry import worker_metrics
from baton.telemetry.deployment_tls import use_tls
from baton.telemetry.worker_metrics import WorkerMetrics
from baton.worker.config import WorkerConfig
from baton.worker.health_server import HealthServer
from baton.worker.start_progress import StartProgress
from baton.worker.worker import Worker


class WorkerProcess:
    """`start()` returns when it serves; the health server, if there is one, answers before that."""

    def __init__(self, config: WorkerConfig) -> None:
        """Raises ConfigError for a health port that cannot be had, or TLS files of no use."""
        use_tls(config.settings.tls)
        self.worker = Worker(config, StartProgress())
        self._health: HealthServer | None = None
        settings = config.settings.worker
        if settings.health_port is not None:
            metrics = WorkerMetrics(self.worker.reading)
            self._health = HealthServer(
                settings.health_host or settings.host,
                settings.health_port,
                self.worker.vitals,
                lambda: (worker_metrics.CONTENT_TYPE, metrics.render()),
                settings.stuck_after_s,
            )
            self._health.start()

    def start(self) -> None:
        """Raises ConfigError, saying what to change."""
        try:
            self.worker.start()
        except BaseException:
            self._close()
            raise

    def info(self) -> dict[str, Any]:
        """The worker's, and `health`: HOST:PORT of the health server, or None."""
        return {**self.worker.info(), "health": self._health and self._health.address}

    def stop(self, grace_s: float | None = None) -> None:
        """Drain, leave, and answer no more probes. Idempotent."""
        self.worker.stop(grace_s)
        self._close()

    def _close(self) -> None:
        health, self._health = self._health, None
        if health is not None:
            health.stop()
