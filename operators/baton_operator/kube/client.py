"""Calls to the Kubernetes API: plain dicts in, plain dicts out, every failure an `ApiError`.

A thin layer over the official asyncio client, which knows how to log in (a pod's service account,
a kubeconfig) and keeps tokens fresh. Its generated classes are passed by: manifests are dicts
everywhere in the operator, as server-side apply wants them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient, Configuration

from baton_operator.kinds import Kind
from baton_operator.names import FIELD_MANAGER

Manifest = dict[str, Any]
OnCall = Callable[[str, str, str], None]
"""Told of every call: verb, plural of the kind, code ("0" when no answer came)."""

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
JSON = "application/json"

INVALID = "Invalid"
# Server-side apply of a field that the schema has not, or not with this type: always a code of 500.
_UNTYPED = "failed to create typed patch object"


class ApiError(Exception):
    """The API server said no, or nothing at all (`code` 0).

    `reason` is the Status's (NotFound, Conflict, AlreadyExists, Invalid, Forbidden, ...), `causes`
    its details, `retry_after_s` what a 429 or 503 asked for.
    """

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        causes: tuple[Mapping[str, str], ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{code} {reason}: {message}" if code else message)
        self.code = code
        self.reason = reason
        self.message = message
        self.causes = causes
        self.retry_after_s = retry_after_s

    @property
    def not_found(self) -> bool:
        return self.code == 404

    @property
    def conflict(self) -> bool:
        """Another field manager owns a field, or the object changed or exists already."""
        return self.code == 409

    @property
    def namespace_ends(self) -> bool:
        """Nothing can be made any more in a namespace that is being deleted."""
        return any(cause.get("reason") == "NamespaceTerminating" for cause in self.causes)

    @property
    def passing(self) -> bool:
        """No answer, too many requests or a server's failure: the same may succeed later."""
        if self.reason == INVALID:
            return False
        return self.code == 0 or self.code == 429 or self.code >= 500


class KubeClient:
    """One connection pool to the API server. Not for several event loops."""

    def __init__(
        self, configuration: Configuration, timeout_s: float, on_call: OnCall | None = None
    ) -> None:
        self._api = ApiClient(configuration)
        self._api.user_agent = FIELD_MANAGER
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._on_call = on_call

    async def close(self) -> None:
        await self._api.close()

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest:
        return await self._call("get", kind, kind.path(namespace, name))

    async def list_all(
        self,
        kind: Kind,
        namespace: str | None,
        *,
        labels: str = "",
        fields: str = "",
        limit: int = 0,
    ) -> list[Manifest]:
        """All of a namespace (or of all), in pages of `limit` where that is given."""
        # Of its own kinds the API server says this of the list, and not of each item.
        same: Manifest = {"apiVersion": kind.api_version, "kind": kind.kind}
        found: list[Manifest] = []
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(limit or "")}
        while True:
            page = await self._call("list", kind, kind.path(namespace), query=query)
            found += [{**same, **item} for item in page["items"]]
            following = page["metadata"].get("continue")
            if not following:
                return found
            query["continue"] = following

    async def create(self, kind: Kind, namespace: str | None, body: Manifest) -> Manifest:
        return await self._call("create", kind, kind.path(namespace), body=body)

    async def replace(self, kind: Kind, namespace: str, name: str, body: Manifest) -> Manifest:
        """Of one resourceVersion: a 409 when the object has changed since."""
        return await self._call("update", kind, kind.path(namespace, name), body=body)

    async def apply(
        self, kind: Kind, manifest: Manifest, *, force: bool, subresource: str = ""
    ) -> Manifest:
        """Server-side apply as the operator's field manager; 409 names the fields of others."""
        meta = manifest["metadata"]
        return await self._call(
            "patch",
            kind,
            kind.path(meta.get("namespace"), meta["name"])
            + (f"/{subresource}" if subresource else ""),
            query={"fieldManager": FIELD_MANAGER, "force": "true" if force else "false"},
            body=manifest,
            content_type=APPLY,
        )

    async def merge(
        self, kind: Kind, namespace: str, name: str, body: Manifest, *, subresource: str = ""
    ) -> Manifest:
        """JSON merge patch; a `metadata.uid` or `resourceVersion` in it is a precondition."""
        path = kind.path(namespace, name) + (f"/{subresource}" if subresource else "")
        query = {"fieldManager": FIELD_MANAGER}
        return await self._call("patch", kind, path, query=query, body=body, content_type=MERGE)

    async def json_patch(
        self, kind: Kind, namespace: str, name: str, patch: list[Manifest]
    ) -> Manifest:
        """RFC 6902; 422 when a `test` in it does not hold."""
        path, query = kind.path(namespace, name), {"fieldManager": FIELD_MANAGER}
        return await self._call(
            "patch", kind, path, query=query, body=patch, content_type=JSON_PATCH
        )

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str | None) -> None:
        """In the background; with `uid` only that very object. One gone already is no error."""
        options: Manifest = {"propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            await self._call("delete", kind, kind.path(namespace, name), body=options)
        except ApiError as error:
            if not error.not_found:
                raise

    async def serves(self, kind: Kind) -> bool:
        """Whether the cluster has this kind (its CRD)."""
        try:
            found = await self._call("get", kind, kind.root)
        except ApiError as error:
            if error.not_found:
                return False
            raise
        return any(resource["name"] == kind.plural for resource in found["resources"])

    async def _call(
        self,
        verb: str,
        kind: Kind,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Manifest | list[Manifest] | None = None,
        content_type: str = JSON,
    ) -> Manifest:
        given = {name: value for name, value in (query or {}).items() if value}
        try:
            method, url, headers, _, _ = await self._api.param_serialize(
                _METHODS[verb],
                path + (f"?{urlencode(given)}" if given else ""),
                header_params={"Content-Type": content_type, "Accept": JSON},
                auth_settings=["BearerToken"],
            )
            response = await self._api.call_api(
                method, url, headers, body, _request_timeout=self._timeout
            )
            answer = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self._note(verb, kind, 0)
            detail = str(error) or type(error).__name__
            raise ApiError(0, "Unreachable", f"the API server does not answer: {detail}") from error
        self._note(verb, kind, response.status)
        if response.status >= 400:
            raise _refusal(response.status, answer, response.getheader("Retry-After"))
        parsed: Manifest = json.loads(answer)
        return parsed

    def _note(self, verb: str, kind: Kind, code: int) -> None:
        if self._on_call is not None:
            self._on_call(verb, kind.plural, str(code))


_METHODS = {
    "get": "GET",
    "list": "GET",
    "create": "POST",
    "update": "PUT",
    "patch": "PATCH",
    "delete": "DELETE",
}


def _refusal(code: int, answer: bytes, retry_after: str | None) -> ApiError:
    try:
        status = json.loads(answer)
    except ValueError:
        status = {}
    if not isinstance(status, dict):
        status = {}
    message = status.get("message") or answer.decode(errors="replace")[:500]
    causes = tuple((status.get("details") or {}).get("causes") or ())
    wait = float(retry_after) if retry_after and retry_after.isdigit() else None
    reason = INVALID if _UNTYPED in message else status.get("reason") or "Error"
    return ApiError(code, reason, message, causes, wait)


async def login() -> Configuration:
    """Where the API server is and how to log in: in a pod its service account, else kubeconfig."""
    configuration = Configuration()
    try:
        kube_config.load_incluster_config(configuration)
    except kube_config.ConfigException:
        await kube_config.load_kube_config(client_configuration=configuration)
    return configuration
