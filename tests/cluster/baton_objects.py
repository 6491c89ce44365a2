"""ModelServices and WorkerPools on the API server, as these tests make them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kubernetes import client

from baton_operator import names
from cluster.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
CRDS = ROOT / "deploy" / "helm" / "baton" / "crds"
EXAMPLES = ROOT / "deploy" / "examples"
Manifest = dict[str, Any]


def install_crds(cluster: Cluster) -> None:
    """Apply the committed CRDs and wait until they are served; does no harm twice."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
    plurals = (names.SERVICE_PLURAL, names.POOL_PLURAL)
    cluster.wait_for_crds(*(f"{plural}.{names.GROUP}" for plural in plurals))


class Objects:
    """One kind's objects in a namespace. Refusals are raised as client.ApiException."""

    def __init__(self, cluster: Cluster, namespace: str, plural: str) -> None:
        self._api = client.CustomObjectsApi(cluster.api)
        self._where = (names.GROUP, names.VERSION, namespace, plural)

    def create(self, body: Manifest, *, dry_run: bool = False, strict: bool = True) -> Manifest:
        """What the API server made of it; strict as kubectl is: unknown fields are errors."""
        options = {"dry_run": "All"} if dry_run else {}
        validation = "Strict" if strict else "Ignore"
        made: Manifest = self._api.create_namespaced_custom_object(
            *self._where, body, field_validation=validation, **options
        )
        return made

    def get(self, name: str) -> Manifest:
        found: Manifest = self._api.get_namespaced_custom_object(*self._where, name)
        return found

    def apply(self, body: Manifest, manager: str) -> Manifest:
        """Server-side apply, also of a part; kubectl would miss what is required of the whole."""
        applied: Manifest = self._api.patch_namespaced_custom_object(
            *self._where,
            body["metadata"]["name"],
            body,
            field_manager=manager,
            _content_type="application/apply-patch+yaml",
        )
        return applied

    def patch(self, name: str, change: Manifest, *, subresource: str = "") -> Manifest:
        """Lay a change over it, or over its status."""
        patch = (
            self._api.patch_namespaced_custom_object_status
            if subresource == "status"
            else self._api.patch_namespaced_custom_object
        )
        patched: Manifest = patch(*self._where, name, change)
        return patched


def refusal(error: client.ApiException) -> str:
    """The API server's message."""
    message: str = json.loads(error.body)["message"]
    return message
