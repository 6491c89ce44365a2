"""The CustomResourceDefinitions: schema, printer columns, subresources."""

from __future__ import annotations

from typing import Any

from baton_operator import names
from baton_operator.crds.structural import Schema, structural
from baton_operator.types.model_service import ModelService, ModelServiceSpec
from baton_operator.types.status import ModelServiceStatus, WorkerPoolStatus
from baton_operator.types.worker_pool import WorkerPool, WorkerPoolSpec

Manifest = dict[str, Any]


def definitions() -> dict[str, Manifest]:
    """Each CRD by the name of its file."""
    return {
        names.SERVICE_PLURAL: _definition(
            kind=names.SERVICE_KIND,
            plural=names.SERVICE_PLURAL,
            short=names.SERVICE_SHORT,
            schema=_object(ModelService, ModelServiceSpec, ModelServiceStatus),
            columns=[
                _column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
                _column("Phase", ".status.phase"),
                _column("Workers", ".status.workers"),
                _column("Model", ".spec.model.source"),
                _column("URL", ".status.url", wide=True),
                _column("Revision", ".status.revision.current", wide=True),
                _column("Updating", ".status.revision.updating", wide=True),
                _column("Reason", '.status.conditions[?(@.type=="Ready")].reason', wide=True),
                _column("Age", ".metadata.creationTimestamp", type="date"),
            ],
            subresources={"status": {}},
        ),
        names.POOL_PLURAL: _definition(
            kind=names.POOL_KIND,
            plural=names.POOL_PLURAL,
            short=names.POOL_SHORT,
            schema=_object(WorkerPool, WorkerPoolSpec, WorkerPoolStatus),
            columns=[
                _column("Service", ".spec.service"),
                _column("Role", ".spec.role"),
                _column("Desired", ".spec.replicas", type="integer"),
                _column("Workers", ".status.replicas", type="integer"),
                _column("Ready", ".status.readyReplicas", type="integer"),
                _column("Age", ".metadata.creationTimestamp", type="date"),
            ],
            subresources={
                "status": {},
                "scale": {
                    "specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas",
                    "labelSelectorPath": ".status.selector",
                },
            },
        ),
    }


def _definition(
    *,
    kind: str,
    plural: str,
    short: str,
    schema: Schema,
    columns: list[Manifest],
    subresources: Manifest,
) -> Manifest:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{names.GROUP}",
            "labels": {names.LABEL_NAME: "baton"},
        },
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": [names.CATEGORY],
            },
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": columns,
                    "subresources": subresources,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _object(
    kind: type[ModelService | WorkerPool],
    spec: type[ModelServiceSpec | WorkerPoolSpec],
    status: type[ModelServiceStatus | WorkerPoolStatus],
) -> Schema:
    """The schema of a whole object; what stands beside spec and status is the API server's."""
    parts = {
        "spec": structural(spec, defaults=True),
        "status": structural(status, defaults=False),
    }
    for name, part in parts.items():
        part["description"] = kind.model_fields[name].description
    return {
        "description": kind.__doc__,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            **parts,
        },
        **kind.validations(),
    }


def _column(name: str, path: str, *, type: str = "string", wide: bool = False) -> Manifest:
    """Of `kubectl get`; wide ones are shown by `-o wide` only."""
    return {"name": name, "type": type, "jsonPath": path, **({"priority": 1} if wide else {})}
