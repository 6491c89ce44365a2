"""What makes the workers of a pool's revision: a Deployment, or a LeaderWorkerSet."""

from __future__ import annotations

from baton_operator import names
from baton_operator.resources.context import Context, Manifest
from baton_operator.resources.metadata import metadata
from baton_operator.resources.pods.worker import worker_template
from baton_operator.resources.worker_groups import groups
from baton_operator.types.pools import PoolSpec


def workload(context: Context, pool: PoolSpec, revision: str, replicas: int) -> Manifest:
    """The workers of `pool` at `revision`; one replica is one worker.

    Raises ConfigError for a podTemplate that cannot be merged.
    """
    template = worker_template(context, pool, revision)
    if pool.parallelism.nodes > 1:
        kind = {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet"}
        spec = groups(pool, template)
    else:
        kind = {"apiVersion": "apps/v1", "kind": "Deployment"}
        spec = _deployment(context, pool, revision, template)
    return {
        **kind,
        "metadata": metadata(
            context,
            names.pool_workload(context.name, pool.name, revision),
            "worker",
            labels=names.worker_labels(context.name, pool.name, pool.role, revision),
        ),
        "spec": {"replicas": replicas, **spec},
    }


def _deployment(context: Context, pool: PoolSpec, revision: str, template: Manifest) -> Manifest:
    return {
        "selector": {"matchLabels": names.revision_selector(context.name, pool.name, revision)},
        # Of `kubectl rollout restart`; another revision is another Deployment.
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {
                "maxSurge": pool.rollout.max_surge,
                "maxUnavailable": pool.rollout.max_unavailable,
            },
        },
        "revisionHistoryLimit": 1,
        "progressDeadlineSeconds": context.spec.rollout.progress_deadline_seconds,
        "template": template,
    }
