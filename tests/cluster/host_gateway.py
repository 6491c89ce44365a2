"""One HTTP server that answers for all gateways of kwok's pods, and says what a test wants."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import httpx


class HostGateway:
    """Statuses by the service's uid; drains are taken and shown in the next status."""

    def __init__(self) -> None:
        self.workers: defaultdict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        self.slo: dict[str, dict[str, Any]] = {}
        self.traffic: dict[str, dict[str, float]] = {}
        self.asked: list[tuple[str, str, Any]] = []
        self.progress: dict[str, dict[str, Any]] = {}
        """What pods say of their downloads, by name."""
        self.real: dict[str, tuple[str, str]] = {}
        """Services for which a real gateway answers: its URL and its token."""
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def busy(self, uid: str, worker: str, running: int) -> None:
        """What a worker reports: a load, until the test says otherwise."""
        with self._lock:
            row = self.workers[uid].setdefault(worker, _row(worker))
            row["load"] = {"num_running": running, "num_waiting": 0}

    def drained(self, uid: str) -> list[str]:
        """Workers that are draining, as this gateway was asked."""
        with self._lock:
            return sorted(worker for worker, row in self.workers[uid].items() if row["draining"])

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        uid, _, rest = path.strip("/").partition("/")
        if uid == "pods":
            told = self.progress.get(rest.removesuffix("/progress"))
            return (404, {}) if told is None else (200, told)
        if uid in self.real:
            return _forwarded(*self.real[uid], method, rest, body)
        with self._lock:
            self.asked.append((method, path, body))
            if rest == "v1/baton/status":
                return 200, {
                    "workers": list(self.workers[uid].values()),
                    "slo": self.slo.get(uid, {}),
                    "traffic": self.traffic.get(uid, {}),
                }
            if rest == "v1/baton/traffic":
                self.traffic[uid] = body["weights"]
                return 200, {}
            if rest.startswith("v1/baton/workers/"):
                worker, verb = rest.removeprefix("v1/baton/workers/").rsplit("/", 1)
                row = self.workers[uid].setdefault(worker, _row(worker))
                row["draining"] = verb == "drain"
                return 200, {}
        return 404, {}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size)) if size else None
                path = self.path.partition("?")[0]
                code, said = gateway.answer(self.command, path, body)
                data = json.dumps(said).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = _any

            def log_message(self, format: str, *args: Any) -> None:
                """The operator's own log says what it asked."""

        return Handler


def _forwarded(url: str, token: str, method: str, path: str, body: Any) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.request(method, f"{url}/{path}", json=body, headers=headers, timeout=10)
    return answer.status_code, answer.json()


def _row(worker: str) -> dict[str, Any]:
    return {"id": worker, "state": "ready", "draining": False, "load": {}, "revision": None}
