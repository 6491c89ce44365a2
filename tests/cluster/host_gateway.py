"""One HTTP server that answers for all gateways of kwok's pods, and says what a test wants."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any, Self

import httpx

from fakes.loopback_server import LoopbackServer, json_handler


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
        self._server = LoopbackServer(json_handler(self.answer))
        self.url = self._server.url

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.__exit__(*exc)

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
        path = path.partition("?")[0]
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


def _forwarded(url: str, token: str, method: str, path: str, body: Any) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.request(method, f"{url}/{path}", json=body, headers=headers, timeout=10)
    return answer.status_code, answer.json()


def _row(worker: str) -> dict[str, Any]:
    return {"id": worker, "state": "ready", "draining": False, "load": {}, "revision": None}
