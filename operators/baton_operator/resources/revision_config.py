"""The settings of all pools of one revision."""

from __future__ import annotations

from baton_operator import names
from baton_operator.resources.context import Context, Manifest
from baton_operator.resources.metadata import metadata
from baton_operator.resources.pods.baton_yaml import worker_config


def revision_config(context: Context, revision: str) -> Manifest:
    """The ConfigMap that workers of `revision` mount; it never changes."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(
            context,
            names.revision_config(context.name, revision),
            "worker",
            labels={names.LABEL_REVISION: revision},
        ),
        "immutable": True,
        "data": {
            names.pool_config_key(pool.name): worker_config(context, pool)
            for pool in context.spec.pools
        },
    }
