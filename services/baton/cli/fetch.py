"""`baton fetch`"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from baton.cli.flags import FETCH, with_settings
from baton.cli.progress_server import serve_progress
from baton.core import hub, model_folder
from baton.core.errors import BatonError, ConfigError
from baton.core.settings import Settings

RESULT_HELP = (
    "Also write how it ended to this file, as one JSON object; in a pod /dev/termination-log."
)
PORT_HELP = "Answer GET /progress on this port meanwhile, as workers do."
# A line of progress at most this often.
REPORT_EVERY_S = 1.0


@with_settings(FETCH)
def fetch(
    settings: Settings,
    result: Annotated[
        Path | None, typer.Option("--result", help=RESULT_HELP, metavar="FILE")
    ] = None,
    weights: Annotated[
        bool, typer.Option("--weights/--no-weights", help="Without: what gateways need, alone.")
    ] = True,
    progress_port: Annotated[
        int | None, typer.Option("--progress-port", help=PORT_HELP, min=1, max=65535)
    ] = None,
) -> None:
    """Download a hub's model into its cache, and check it; what is there already stays.

    Progress and outcome go to standard output, a JSON object a line. Ctrl-C and SIGTERM stop it at
    once; the next try goes on after the last whole file.
    """
    from baton.telemetry import logging

    logging.setup(settings.log.level, settings.log.format)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    source, revision = settings.model.source, settings.model.revision
    lines = _Lines(result)
    if progress_port is not None:
        serve_progress(progress_port, lines.so_far)
    try:
        folder = model_folder.resolve(source, revision, lines.progress, weights=weights)
    except BatonError as error:
        lines.end({"event": "error", "code": error.code, "message": error.message})
        raise
    files = [path for path in folder.iterdir() if path.is_file()]
    lines.end(
        {
            "event": "done",
            "source": source,
            "revision": revision,
            "commit": model_folder.commit(folder),
            "folder": str(folder),
            "files": len(files),
            "bytes": sum(path.stat().st_size for path in files),
        }
    )


class _Lines:
    """What is written to standard output, and in the end to the file."""

    def __init__(self, result: Path | None) -> None:
        """Raises ConfigError at once for a file that cannot be written."""
        self._result = result
        self._lock = threading.Lock()
        self._said: tuple[int, int | None] | None = None
        self._said_at = 0.0
        if result is not None:
            self._write(result, "")

    def progress(self, num_bytes: int, total_bytes: int | None) -> None:
        """How far the download is; said when it is news."""
        now, news = time.monotonic(), (num_bytes, total_bytes)
        whole = num_bytes == total_bytes
        if news != self._said and (whole or now - self._said_at >= REPORT_EVERY_S):
            self._said, self._said_at = news, now
            self._print({"event": "progress", "bytes": num_bytes, "total_bytes": total_bytes})

    def so_far(self) -> tuple[int, int | None]:
        """What was said last."""
        return self._said or (0, None)

    def end(self, outcome: dict[str, Any]) -> None:
        self._print(outcome)
        if self._result is not None:
            self._write(self._result, json.dumps(outcome) + "\n")

    def _print(self, document: dict[str, Any]) -> None:
        with self._lock:
            print(json.dumps(document), flush=True)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"--result {path} cannot be written ({error.strerror or error})"
            ) from error


def _stop(number: int, frame: object) -> None:
    """At once: the threads that download would go on to the end of their files."""
    hub.drop_open_parts()
    sys.stderr.write("baton: stopped; the next try goes on after the last whole file\n")
    os._exit(128 + number)
