"""The small HTTP server's addresses; its answers are tested as a worker's probes."""

from __future__ import annotations

import socket
from http import HTTPStatus

import httpx
import pytest

from baton.telemetry.small_http import TEXT, Document, SmallHttpServer


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


def test_a_taken_port_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        SmallHttpServer("127.0.0.1", taken.getsockname()[1], path_as_text)
