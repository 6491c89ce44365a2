"""The small HTTP server's addresses; its answers are tested as a worker's probes."""

from __future__ import annotations

import socket
import threading
from http import HTTPStatus

import httpx
import pytest

from baton.telemetry.small_http import MAX_CALLERS, TEXT, Document, SmallHttpServer


def path_as_text(path: str) -> tuple[HTTPStatus, Document]:
    return HTTPStatus.OK, (TEXT, path.encode())


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_both_families_where_they_are_asked_for() -> None:
    server = SmallHttpServer("", 0, path_as_text, dual_stack=True)
    server.start("both")
    try:
        port = server.server_address[1]
        for host in ("127.0.0.1", "[::1]"):
            assert httpx.get(f"http://{host}:{port}/x?y=z", timeout=10).text == "/x"
    finally:
        server.stop()


def test_callers_for_whom_no_thread_starts_take_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    server = SmallHttpServer("127.0.0.1", 0, path_as_text)

    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        for _ in range(MAX_CALLERS + 1):
            ours, theirs = socket.socketpair()
            with ours, theirs, pytest.raises(RuntimeError):
                server.process_request(ours, ("127.0.0.1", 1))
    server.start("one")
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/x"
        assert httpx.get(url, timeout=10).text == "/x"
    finally:
        server.stop()


def test_a_taken_port_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        SmallHttpServer("127.0.0.1", taken.getsockname()[1], path_as_text)
