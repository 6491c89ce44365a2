"""A worker's probes, progress and metrics over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus

from baton.core.errors import ConfigError
from baton.telemetry.addresses import check_bindable, join_address
from baton.telemetry.small_http import JSON, TEXT, Document, SmallHttpServer
from baton.worker import health
from baton.worker.health import Verdict, Vitals


class HealthServer:
    """Listens once it is made; `start()` lets it answer. Raises ConfigError for a taken port."""

    def __init__(
        self,
        host: str,
        port: int,
        vitals: Callable[[], Vitals],
        metrics: Callable[[], Document],
        stuck_after_s: float,
    ) -> None:
        self._vitals = vitals
        self._stuck_after_s = stuck_after_s
        self._metrics = metrics
        check_bindable(host, port)
        try:
            self._server = SmallHttpServer(host, port, self._answer)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {join_address(host, port)}: {error.strerror or error} "
                "(worker.health_host and worker.health_port)"
            ) from error
        self.address = join_address(host, self._server.server_address[1])

    def start(self) -> None:
        self._server.start("health")

    def stop(self) -> None:
        self._server.stop()

    def _answer(self, path: str) -> tuple[HTTPStatus, Document]:
        match path:
            case "/startupz":
                return _verdict(health.started(self._vitals()))
            case "/livez":
                return _verdict(health.alive(self._vitals(), self._stuck_after_s))
            case "/readyz":
                return _verdict(health.ready(self._vitals()))
            case "/progress":
                return HTTPStatus.OK, (JSON, _progress(self._vitals()))
            case "/metrics":
                return HTTPStatus.OK, self._metrics()
        known = "/startupz, /livez, /readyz, /progress, /metrics"
        return HTTPStatus.NOT_FOUND, (TEXT, f"no such path; there are {known}\n".encode())


def _verdict(verdict: Verdict) -> tuple[HTTPStatus, Document]:
    status = HTTPStatus.OK if verdict.ok else HTTPStatus.SERVICE_UNAVAILABLE
    return status, (TEXT, f"{verdict.reason or 'ok'}\n".encode())


def _progress(vitals: Vitals) -> bytes:
    now = vitals.progress
    document = {
        "stage": now.stage.value,
        "bytes": now.num_bytes,
        "total_bytes": now.total_bytes,
        "seconds": round(now.seconds, 3),
        "message": health.started(vitals).reason or None,
    }
    return json.dumps(document).encode() + b"\n"
