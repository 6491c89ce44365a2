"""ModelServices as the operator's tests make them, and what their status says."""

from __future__ import annotations

from typing import Any

from baton_operator import names
from cluster.baton_objects import Manifest
from cluster.cluster import Cluster, eventually

# On pods: kwok leaves them as the test makes them.
HELD = {"metadata": {"annotations": {"test.baton.dev/hold": "true"}}}


def service(name: str = "chat", **spec: Any) -> Manifest:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.SERVICE_KIND,
        "metadata": {"name": name},
        "spec": {
            "model": {"source": "baton-tiny"},
            "pools": [
                {"name": "prefill", "role": "prefill", "engine": {"kind": "mock"}},
                {"name": "decode", "role": "decode", "engine": {"kind": "mock"}, "replicas": 2},
            ],
            "store": {"redis": {"url": "redis://redis.example:6379/0"}},
            **spec,
        },
    }


def condition(cluster: Cluster, namespace: str, type: str, name: str = "chat") -> Manifest:
    found = cluster.get("modelservice", name, namespace) or {}
    conditions = (found.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each["type"] == type), {})


def wait_for(
    cluster: Cluster,
    namespace: str,
    type: str,
    status: str,
    *,
    name: str = "chat",
    within_s: float = 90,
) -> Manifest:
    """The condition, once it has this status."""

    def holds() -> Manifest | None:
        found = condition(cluster, namespace, type, name)
        return found if found.get("status") == status else None

    try:
        return eventually(holds, within_s=within_s, every_s=0.3)
    except AssertionError:
        seen = cluster.get("modelservice", name, namespace)
        raise AssertionError(f"{type} is not {status}: {(seen or {}).get('status')}") from None
