"""The health server over real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from baton.core.errors import ConfigError
from baton.telemetry.small_http import MAX_CALLERS
from baton.worker.health import Heartbeat, Vitals
from baton.worker.health_server import HealthServer
from baton.worker.lifecycle import WorkerState
from baton.worker.start_progress import Progress, Stage


class Served:
    """A server whose worker a test makes up."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.now = Vitals(
            Progress(Stage.DOWNLOADING, 5, 10, 1.5), WorkerState.STARTING, False, None, "store"
        )
        self.server = HealthServer(host, port, self.look, self.metrics, 30.0)
        self.server.start()
        self.url = f"http://{self.server.address}"

    def look(self) -> Vitals:
        return self.now

    def metrics(self) -> tuple[str, bytes]:
        return "text/plain", b"baton_x 1\n"

    def get(self, path: str) -> tuple[int, str]:
        answer = httpx.get(f"{self.url}{path}", timeout=10)
        return answer.status_code, answer.text


@pytest.fixture
def served() -> Iterator[Served]:
    it = Served()
    yield it
    it.server.stop()


def serving(state: WorkerState = WorkerState.READY, age_s: float = 0.1) -> Vitals:
    progress = Progress(Stage.READY, 0, None, 1.0)
    return Vitals(progress, state, True, Heartbeat(True, age_s, 3), "store")


def test_a_start_is_told_from_its_first_moment(served: Served) -> None:
    assert served.get("/startupz")[0] == 503
    assert served.get("/readyz")[0] == 503
    assert served.get("/livez") == (200, "ok\n")
    answer = httpx.get(f"{served.url}/progress", timeout=10)
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert (document["stage"], document["bytes"], document["total_bytes"]) == ("downloading", 5, 10)
    assert "looks for the model" in document["message"]
    served.now = serving()
    assert [served.get(p)[0] for p in ("/startupz", "/livez", "/readyz")] == [200, 200, 200]
    assert httpx.get(f"{served.url}/progress", timeout=10).json()["message"] is None


def test_a_query_and_head_are_understood(served: Served) -> None:
    assert served.get("/livez?verbose=1")[0] == 200
    head = httpx.head(f"{served.url}/livez", timeout=10)
    assert (head.status_code, head.text, head.headers["content-length"]) == (200, "", "3")


def test_stuck_and_draining_workers(served: Served) -> None:
    served.now = serving(WorkerState.DRAINING, age_s=31.0)
    assert served.get("/startupz")[0] == 200
    assert "takes no new requests" in served.get("/readyz")[1]
    status, text = served.get("/livez")
    assert status == 503
    assert "stood still for 31 s" in text


def test_unknown_paths_name_the_known_ones(served: Served) -> None:
    status, text = served.get("/health")
    assert status == 404
    assert "/livez" in text
    assert httpx.post(f"{served.url}/livez", timeout=10).status_code == 501


def test_metrics_that_break_are_an_error_and_leave_the_probes_alone(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert served.get("/metrics") == (200, "baton_x 1\n")

    def broken() -> Vitals:
        raise RuntimeError("boom")

    monkeypatch.setattr(served.server, "_vitals", broken)
    status, text = served.get("/livez")
    assert (status, text) == (500, "RuntimeError: see the log of this process\n")
    assert "boom" in caplog.text
    assert served.get("/metrics")[0] == 200


def test_callers_that_say_nothing_hold_no_more_than_their_share(served: Served) -> None:
    host, _, port = served.server.address.rpartition(":")
    silent = [socket.create_connection((host, int(port)), 5) for _ in range(MAX_CALLERS - 1)]
    try:
        assert served.get("/livez")[0] == 200
        threads = [t for t in threading.enumerate() if "process_request_thread" in t.name]
        assert len(threads) <= MAX_CALLERS
    finally:
        for connection in silent:
            connection.close()


def test_a_taken_port_is_named(served: Served) -> None:
    port = int(served.server.address.rpartition(":")[2])
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: the port is in use"):
        Served(port=port)


def test_a_server_follows_another_at_once_on_its_port() -> None:
    """Connections that the first one closed are still in TIME_WAIT, as in a restarted container."""
    first = Served()
    port = int(first.server.address.rpartition(":")[2])
    assert first.get("/livez") == (200, "ok\n")
    first.server.stop()
    second = Served(port=port)
    assert second.get("/livez") == (200, "ok\n")
    second.server.stop()


def test_an_ipv6_address() -> None:
    it = Served("::1")
    try:
        assert it.server.address.startswith("[::1]:")
        assert it.get("/livez")[0] == 200
    finally:
        it.server.stop()
