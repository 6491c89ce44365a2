"""A hub on this machine: as much of its HTTP API as huggingface_hub asks for, and faults."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from fakes.loopback_server import LoopbackServer

COMMIT = "5f0a6ac7d0a5b8e2f6f3d1f0e9c8b7a695847362"
_API = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/([^/?]+))?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)")


class FakeHub:
    """One repository, `org/tiny`, at one commit, with the files of `folder`."""

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        self.revisions = {"main": COMMIT, "v1": COMMIT, COMMIT: COMMIT}
        # Status and code of every answer, as the hub gives them.
        self.refuse: tuple[int, str] | None = None
        # Sizes that listings tell instead of the true ones.
        self.told_sizes: dict[str, int] = {}
        # File to the bytes after which its connection breaks, the first time.
        self.breaks: dict[str, int] = {}
        # File to the bytes after which nothing comes any more.
        self.stalls: dict[str, int] = {}
        self.stalled = threading.Event()
        self.closed = threading.Event()
        # (file, Range header) of each download, and the tokens that were shown.
        self.downloads: list[tuple[str, str | None]] = []
        self.tokens: set[str | None] = set()
        self._server = LoopbackServer(_handler(self))
        self.url = self._server.url

    @property
    def num_bytes(self) -> int:
        return sum(len(content) for content in self.files.values())

    def __enter__(self) -> FakeHub:
        self._server.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.closed.set()
        self._server.__exit__(*exc)


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.tokens.add(self.headers.get("Authorization"))
            if hub.refuse is not None:
                status, code = hub.refuse
                self._json(status, {"error": code}, {"X-Error-Code": code})
            elif match := _API.fullmatch(self.path.partition("?")[0]):
                self._api(*match.groups())
            elif match := _FILE.fullmatch(self.path):
                self._file(match[2], match[3])
            else:
                self._json(404, {"error": "no such path"})

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _api(self, repository: str, what: str | None, revision: str | None) -> None:
            if repository != "org/tiny":
                self._json(401, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
                return
            commit = hub.revisions.get(revision or "main")
            if commit is None:
                self._json(404, {"error": "not found"}, {"X-Error-Code": "RevisionNotFound"})
            elif what == "tree":
                self._json(
                    200,
                    [
                        {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}
                        for name, data in hub.files.items()
                    ],
                )
            else:
                siblings = [
                    {"rfilename": name, "size": hub.told_sizes.get(name, len(data))}
                    for name, data in hub.files.items()
                ]
                self._json(200, {"id": repository, "sha": commit, "siblings": siblings})

        def _file(self, revision: str, name: str) -> None:
            data = hub.files.get(name)
            if data is None or revision != COMMIT:
                self._json(404, {"error": "not found"}, {"X-Error-Code": "EntryNotFound"})
                return
            wanted = self.headers.get("Range")
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            body = data[start:]
            self.send_response(206 if wanted else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{_etag(data)}"')
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(body)))
            if wanted:
                last = len(data) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(data)}")
            self.end_headers()
            if self.command == "HEAD":
                return
            hub.downloads.append((name, wanted))
            if (limit := hub.breaks.pop(name, None)) is not None:
                self.wfile.write(body[:limit])
                self.close_connection = True
            elif (limit := hub.stalls.get(name)) is not None:
                self.wfile.write(body[:limit])
                self.wfile.flush()
                hub.stalled.set()
                hub.closed.wait()
            else:
                self.wfile.write(body)

        def _json(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            for header, value in (headers or {}).items():
                self.send_header(header, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
