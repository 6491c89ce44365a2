"""How far a download is, over HTTP, as workers tell it of themselves."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

from baton.core.errors import ConfigError

# A client that is slower than this between two packets is cut off.
CLIENT_TIMEOUT_S = 5.0


def serve_progress(port: int, progress: Callable[[], tuple[int, int | None]]) -> None:
    """Answer GET /progress on all addresses until the process ends.

    `progress` gives the bytes that are there, and of how many if that is known. Raises ConfigError
    for a port that is taken.
    """
    try:
        server = _Server(port, progress)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on port {port}: {error.strerror or error} (--progress-port)"
        ) from error
    threading.Thread(target=server.serve_forever, name="progress", daemon=True).start()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, progress: Callable[[], tuple[int, int | None]]) -> None:
        self.progress = progress
        self._both = socket.has_dualstack_ipv6()
        self.address_family = socket.AF_INET6 if self._both else socket.AF_INET
        super().__init__(("", port), _Handler)

    def server_bind(self) -> None:
        if self._both:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # HTTPServer's would look its own name up, which nobody asks for.
        TCPServer.server_bind(self)


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_TIMEOUT_S
    server: _Server
    server_version = "baton"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/progress":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        done, total = self.server.progress()
        document = {"stage": "downloading", "bytes": done, "total_bytes": total}
        body = json.dumps(document).encode() + b"\n"
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Asked every few seconds: not logged."""
