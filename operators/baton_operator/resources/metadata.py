"""Metadata of everything that a service owns."""

from __future__ import annotations

from collections.abc import Mapping

from baton_operator import names
from baton_operator.resources.context import Context, Manifest


def metadata(
    context: Context,
    name: str,
    component: names.Component,
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """Name, namespace, labels and the owner. `labels` come on top of those of the component."""
    result: Manifest = {
        "name": name,
        "namespace": context.service.namespace,
        "labels": {**names.labels(context.name, component), **(labels or {})},
        "ownerReferences": [owner(context)],
    }
    if annotations:
        result["annotations"] = dict(annotations)
    return result


def owner(context: Context) -> Manifest:
    """The service as owner: what it owns goes with it, and holds up nobody's deletion."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.SERVICE_KIND,
        "name": context.name,
        "uid": context.service.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
