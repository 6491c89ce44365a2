"""Workers of several pods: the spec of a LeaderWorkerSet, in which one group is one worker.

Its leader is the worker, and the pod that is asked, told and counted; the others lend their GPUs to
the leader's Ray. API: https://lws.sigs.k8s.io, leaderworkerset.x-k8s.io/v1.
"""

from __future__ import annotations

from copy import deepcopy

from baton_operator.resources.context import Manifest
from baton_operator.types.pools import PoolSpec

# Of the container's own environment, where LeaderWorkerSet's webhook sets it.
_LEADER = "$(LWS_LEADER_ADDRESS)"
# Of what gateways, Prometheus and the kubelet want of a worker; the others have none of it. The
# kubelet sees them by their process, which ends with the leader.
_OF_WORKERS = ("startupProbe", "livenessProbe", "readinessProbe", "ports")


def groups(pool: PoolSpec, template: Manifest) -> Manifest:
    """The spec of groups of `parallelism.nodes` pods; `template` is a worker's."""
    return {
        # Of somebody's own changes; another revision is another LeaderWorkerSet.
        "rolloutStrategy": {
            "type": "RollingUpdate",
            "rollingUpdateConfiguration": {
                "maxSurge": pool.rollout.max_surge,
                "maxUnavailable": pool.rollout.max_unavailable,
            },
        },
        # The leader waits for the others before it is ready.
        "startupPolicy": "LeaderCreated",
        "leaderWorkerTemplate": {
            "size": pool.parallelism.nodes,
            # Ranks that lost one of them cannot go on.
            "restartPolicy": "RecreateGroupOnPodRestart",
            "leaderTemplate": template,
            "workerTemplate": _joining(template),
        },
    }


def _joining(template: Manifest) -> Manifest:
    """The same pod, as a node of the leader's Ray; it has as long to leave as the leader."""
    result = deepcopy(template)
    container = result["spec"]["containers"][0]
    container["command"] = [*container["command"], "--join", _LEADER]
    for name in _OF_WORKERS:
        container.pop(name, None)
    return result
