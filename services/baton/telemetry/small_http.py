"""HTTP for what a process tells of itself: a GET, an answer that is at hand, no more.

On threads of its own and with nothing but the standard library: it answers while a model is loaded
and while the process's event loop or engine is busy, and it is no part of what serves requests.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from baton.telemetry.logging import event

log = logging.getLogger(__name__)

# A client that is slower than this between two packets is cut off.
CLIENT_TIMEOUT_S = 5.0
# Callers at once; more are cut off, so that none can fill the process with threads.
MAX_CALLERS = 32

# Content type and body.
Document = tuple[str, bytes]
TEXT, JSON = "text/plain; charset=utf-8", "application/json"


class SmallHttpServer(ThreadingHTTPServer):
    """Listens once it is made; `start()` lets it answer.

    `answer` is given a path without its query. With `dual_stack` it listens on all addresses of
    both families, where the machine has both, and `host` is ""; otherwise on the family of `host`,
    where a name is looked up. Raises OSError for a port that is taken.
    """

    daemon_threads = True
    # Linux: a port in TIME_WAIT is free, one that somebody listens on is not. A container that is
    # started again is in its predecessor's network, where the kubelet has just asked.
    allow_reuse_address = True

    def __init__(
        self,
        host: str,
        port: int,
        answer: Callable[[str], tuple[HTTPStatus, Document]],
        *,
        dual_stack: bool = False,
    ) -> None:
        self.answer = answer
        self._callers = threading.BoundedSemaphore(MAX_CALLERS)
        self._both = dual_stack and socket.has_dualstack_ipv6()
        if dual_stack:
            self.address_family = socket.AF_INET6 if self._both else socket.AF_INET
        else:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self.address_family = found[0][0]
        super().__init__((host, port), _Handler)

    def start(self, thread_name: str) -> None:
        threading.Thread(target=self.serve_forever, name=thread_name, daemon=True).start()

    def stop(self) -> None:
        """Of one that was started."""
        self.shutdown()
        self.server_close()

    def server_bind(self) -> None:
        if self._both:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # HTTPServer's would look its own name up, for which nobody asks and which may take long.
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._callers.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            # No thread could be started, which would have released it.
            self._callers.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._callers.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # The default prints a traceback when a caller hangs up.
        log.debug("a caller's request failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_TIMEOUT_S
    server: SmallHttpServer
    server_version = "baton"
    sys_version = ""

    def do_GET(self) -> None:
        try:
            status, (kind, body) = self.server.answer(self.path.partition("?")[0])
        except Exception as error:
            log.exception(*event("small_http_failed", path=self.path))
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            kind, body = TEXT, f"{type(error).__name__}: see the log of this process\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Asked every few seconds: not logged."""
