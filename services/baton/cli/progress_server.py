"""How far a download is, over HTTP, as workers tell it of themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus

from baton.core.errors import ConfigError
from baton.telemetry.small_http import JSON, TEXT, Document, SmallHttpServer


def serve_progress(port: int, progress: Callable[[], tuple[int, int | None]]) -> None:
    """Answer GET /progress on all addresses until the process ends.

    `progress` gives the bytes that are there, and of how many if that is known. Raises ConfigError
    for a port that is taken.
    """

    def answer(path: str) -> tuple[HTTPStatus, Document]:
        if path != "/progress":
            return HTTPStatus.NOT_FOUND, (TEXT, b"no such path; there is /progress\n")
        done, total = progress()
        document = {"stage": "downloading", "bytes": done, "total_bytes": total}
        return HTTPStatus.OK, (JSON, json.dumps(document).encode() + b"\n")

    try:
        server = SmallHttpServer("", port, answer, dual_stack=True)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on port {port}: {error.strerror or error} (--progress-port)"
        ) from error
    server.start("progress")
