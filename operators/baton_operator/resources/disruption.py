"""PodDisruptionBudgets: evictions take one pod of a kind at a time."""

from __future__ import annotations

from baton_operator import names
from baton_operator.resources.context import Context, Manifest
from baton_operator.resources.metadata import metadata
from baton_operator.types.pools import PoolSpec


def pool_budget(context: Context, pool: PoolSpec) -> Manifest:
    """For the workers of a pool, of all revisions together."""
    meta = metadata(
        context,
        names.worker_pool(context.name, pool.name),
        "worker",
        labels={names.LABEL_POOL: pool.name, names.LABEL_ROLE: pool.role},
    )
    return _budget(meta, names.pool_selector(context.name, pool.name))


def gateway_budget(context: Context) -> Manifest:
    """For the gateways."""
    meta = metadata(context, names.gateway(context.name), "gateway")
    return _budget(meta, names.selector(context.name, "gateway"))


def _budget(meta: Manifest, selector: dict[str, str]) -> Manifest:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": meta,
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector},
            # What serves nobody must not hold up the drain of its node.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
