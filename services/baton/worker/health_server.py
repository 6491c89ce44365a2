"""A worker's probes, progress and metrics over HTTP.

On threads of its own and with nothing but the standard library: it answers while the model is
loaded and while the engine is busy, and it is no part of what serves requests.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from baton.core.errors import ConfigError
from baton.telemetry import rpc
from baton.telemetry.logging import event
from baton.worker import health
from baton.worker.health import Verdict, Vitals

log = logging.getLogger(__name__)

# A client that is slower than this between two packets is cut off.
CLIENT_TIMEOUT_S = 5.0
# Callers at once; more are cut off, so that none can fill the process with threads.
MAX_CALLERS = 32

# Content type and body.
Document = tuple[str, bytes]
TEXT, JSON = "text/plain; charset=utf-8", "application/json"


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
        rpc.check_bindable(host, port)
        try:
            self._server = _Server(host, port, self._answer)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {rpc.join_address(host, port)}: {error.strerror or error} "
                "(worker.health_host and worker.health_port)"
            ) from error
        self.address = rpc.join_address(host, self._server.server_address[1])

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

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


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Linux: a port in TIME_WAIT is free, one that somebody listens on is not. A container that is
    # started again is in its predecessor's network, where the kubelet has just asked.
    allow_reuse_address = True

    def __init__(
        self, host: str, port: int, answer: Callable[[str], tuple[HTTPStatus, Document]]
    ) -> None:
        # IPv6 where `host` is; a name is looked up.
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        self.answer = answer
        self._callers = threading.BoundedSemaphore(MAX_CALLERS)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's would look its own name up, for which nobody asks and which may take long.
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._callers.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._callers.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # The default prints a traceback when a caller hangs up.
        log.debug("health request failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_TIMEOUT_S
    server: _Server
    server_version = "baton"
    sys_version = ""

    def do_GET(self) -> None:
        try:
            status, (kind, body) = self.server.answer(self.path.partition("?")[0])
        except Exception as error:
            log.exception(*event("health_request_failed", path=self.path))
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            kind, body = TEXT, f"{type(error).__name__}: see the worker's log\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds: they are not logged."""
