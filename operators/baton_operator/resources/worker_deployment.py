"""What makes the workers of a pool's revision: a Deployment, or a LeaderWorkerSet."""

from __future__ import annotations

from copy import deepcopy

from baton_operator import names
from baton_operator.resources.context import Context, Manifest
from baton_operator.resources.metadata import metadata
from baton_operator.resources.pods.worker import worker_template
from baton_operator.types.pools import PoolSpec

RAY_PORT = 6379


def workload(context: Context, pool: PoolSpec, revision: str, replicas: int) -> Manifest:
    """The workers of `pool` at `revision`; one replica is one worker.

    Nothing uses the LeaderWorkerSet yet: `troubles.py` keeps pools from more than one node, since
    the leader's Ray listens on loopback only.

    Raises ConfigError for a podTemplate that cannot be merged.
    """
    template = worker_template(context, pool, revision)
    manifest: Manifest = {
        "metadata": metadata(
            context,
            names.pool_workload(context.name, pool.name, revision),
            "worker",
            labels=names.worker_labels(context.name, pool.name, pool.role, revision),
        ),
        "spec": {"replicas": replicas},
    }
    if pool.parallelism.nodes > 1:
        manifest |= {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
        }
        manifest["spec"] |= _groups(pool, template)
    else:
        manifest |= {"apiVersion": "apps/v1", "kind": "Deployment"}
        manifest["spec"] |= _deployment(context, pool, revision, template)
    return manifest


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


def _groups(pool: PoolSpec, template: Manifest) -> Manifest:
    """Pods in groups of `nodes`, whose first is the worker and has the Ray that the others join."""
    return {
        "rolloutStrategy": {
            "type": "RollingUpdate",
            "rollingUpdateConfiguration": {
                "maxSurge": pool.rollout.max_surge,
                "maxUnavailable": pool.rollout.max_unavailable,
            },
        },
        # The others start once the leader exists: it waits for them before it is ready.
        "startupPolicy": "LeaderCreated",
        "leaderWorkerTemplate": {
            "size": pool.parallelism.nodes,
            # Ranks that lost one of them cannot go on.
            "restartPolicy": "RecreateGroupOnPodRestart",
            "leaderTemplate": template,
            "workerTemplate": _follower(template),
        },
    }


def _follower(template: Manifest) -> Manifest:
    """A pod that lends its GPUs to the leader's Ray, and is as alive as that."""
    result = deepcopy(template)
    container = result["spec"]["containers"][0]
    container["command"] = [
        *("ray", "start", f"--address=$(LWS_LEADER_ADDRESS):{RAY_PORT}"),
        *("--block", "--disable-usage-stats"),
    ]
    for name in ("startupProbe", "livenessProbe", "readinessProbe", "ports", "args"):
        container.pop(name, None)
    return result
