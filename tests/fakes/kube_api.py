"""A small API server over real HTTP: objects in memory, resourceVersions, optimistic locking.

Enough for clients of single objects: get, list, create, replace, merge patch, delete. Server-side
apply merges and knows one conflict: a field that `owned` says another manager has. What needs the
real one is in `tests/cluster`.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web
from kubernetes.aio.client import Configuration

Manifest = dict[str, Any]


class KubeApi:
    """Objects by path; `refuse` may answer a call instead: (method, path) -> (code, reason)."""

    def __init__(self) -> None:
        self.objects: dict[str, Manifest] = {}
        self.calls: list[tuple[str, str]] = []
        self.refuse: Callable[[str, str], tuple[int, str] | None] = lambda method, path: None
        self.owned: set[str] = set()
        self.ending = False
        """The namespace is being deleted: nothing new is taken."""
        # As with etcd, no object has version 1.
        self._version = 1
        self._uids = 0

    def store(self, path: str, manifest: Manifest) -> Manifest:
        """As if somebody had written it."""
        self._version += 1
        meta = manifest.setdefault("metadata", {})
        meta["resourceVersion"] = str(self._version)
        if "uid" not in meta:
            self._uids += 1
            meta["uid"] = f"uid-{self._uids}"
        self.objects[path] = manifest
        return manifest

    async def answer(self, request: web.Request) -> web.Response:
        method, path = request.method, request.path
        self.calls.append((method, path))
        refusal = self.refuse(method, path)
        if refusal is not None:
            return _status(*refusal)
        body = json.loads(await request.read() or b"null")
        is_status = path.endswith("/status")
        path = path.removesuffix("/status")
        found = self.objects.get(path)
        if method == "POST" and self.ending:
            return _status(403, "Forbidden", "is being terminated", "NamespaceTerminating")
        if method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                return _status(409, "AlreadyExists")
            return web.json_response(self.store(path, body), status=201)
        if method == "GET" and found is None and self._is_list(path):
            named = request.query.get("fieldSelector", "").removeprefix("metadata.name=")
            # As of the API server's own kinds: what all of them are is said of the list.
            items = [
                {name: value for name, value in each.items() if name not in ("apiVersion", "kind")}
                for at, each in self.objects.items()
                if at.startswith(path + "/") and named in ("", each["metadata"]["name"])
            ]
            return web.json_response({"metadata": {}, "items": items})
        makes = method == "PATCH" and "apply" in request.content_type and not is_status
        if found is None and not makes:
            return _status(404, "NotFound")
        if method == "PUT":
            assert found is not None
            if body["metadata"].get("resourceVersion") != found["metadata"]["resourceVersion"]:
                return _status(409, "Conflict", "the object has been modified")
            return web.json_response(self.store(path, body))
        if method == "PATCH":
            version = body.get("metadata", {}).pop("resourceVersion", None)
            if found and version not in (None, found["metadata"]["resourceVersion"]):
                return _status(409, "Conflict", "the object has been modified")
            if path in self.owned and request.query.get("force") == "false":
                return _status(409, "Conflict", "conflict with kubectl-edit: .spec.x")
            uid = body.get("metadata", {}).get("uid")
            if found is not None and uid is not None and uid != found["metadata"]["uid"]:
                return _status(409, "Conflict", "Precondition failed: UID")
            return web.json_response(self.store(path, _merged(copy.deepcopy(found or {}), body)))
        if method == "DELETE":
            del self.objects[path]
            return web.json_response({})
        assert found is not None
        return web.json_response(found)

    def _is_list(self, path: str) -> bool:
        # /api/v1/... and /apis/GROUP/VERSION/..., then pairs of plural and name.
        after = path.strip("/").split("/")[2 if path.startswith("/api/") else 3 :]
        return len(after) % 2 == 1


def _merged(old: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result = old if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(result.get(name), value)
    return result


def _status(code: int, reason: str, message: str = "", cause: str = "") -> web.Response:
    body: Manifest = {"kind": "Status", "code": code, "reason": reason}
    body["message"] = message or reason
    if cause:
        body["details"] = {"causes": [{"reason": cause}]}
    return web.json_response(body, status=code)


@contextlib.asynccontextmanager
async def served(api: KubeApi) -> AsyncIterator[Configuration]:
    """The fake on a free port of this host, and how a client reaches it."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()
