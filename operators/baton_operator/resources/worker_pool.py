"""The WorkerPool of a pool: the object whose count people and autoscalers change."""

from __future__ import annotations

from baton_operator import names
from baton_operator.resources.context import Context, Manifest
from baton_operator.resources.metadata import metadata
from baton_operator.types.pools import PoolSpec


def worker_pool(context: Context, pool: PoolSpec) -> Manifest:
    """Without `spec.replicas`: that field belongs to whoever wrote it last."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.POOL_KIND,
        "metadata": metadata(
            context,
            names.worker_pool(context.name, pool.name),
            "worker",
            labels={names.LABEL_POOL: pool.name, names.LABEL_ROLE: pool.role},
        ),
        "spec": {"service": context.name, "pool": pool.name, "role": pool.role},
    }
