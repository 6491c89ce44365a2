"""The autoscaler of the gateways. Workers are scaled through their WorkerPools."""

from __future__ import annotations

from baton_operator import names
from baton_operator.resources.context import Context, Manifest
from baton_operator.resources.metadata import metadata


def gateway_autoscaler(context: Context) -> Manifest | None:
    """A HorizontalPodAutoscaler by CPU, where one is wanted."""
    wanted = context.spec.gateway.autoscaling
    if wanted is None:
        return None
    name = names.gateway(context.name)
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(context, name, "gateway"),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": wanted.min_replicas,
            "maxReplicas": wanted.max_replicas,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {
                        "name": "cpu",
                        "target": {
                            "type": "Utilization",
                            "averageUtilization": wanted.target_cpu_percent,
                        },
                    },
                }
            ],
        },
    }
