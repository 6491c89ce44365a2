"""What the Prometheus operator scrapes: PodMonitor of workers, ServiceMonitor of gateways."""

from __future__ import annotations

from baton_operator import names
from baton_operator.resources.context import Context, Manifest
from baton_operator.resources.metadata import metadata

_API_VERSION = "monitoring.coreos.com/v1"
# Become labels of every metric.
_POD_LABELS = [names.LABEL_SERVICE, names.LABEL_POOL, names.LABEL_ROLE, names.LABEL_REVISION]


def monitors(context: Context) -> list[Manifest]:
    """Where the installation wants them."""
    if not context.installation.monitors:
        return []
    return [_worker_monitor(context), _gateway_monitor(context)]


def _worker_monitor(context: Context) -> Manifest:
    return {
        "apiVersion": _API_VERSION,
        "kind": "PodMonitor",
        "metadata": metadata(context, names.workers(context.name), "worker"),
        "spec": {
            "selector": {"matchLabels": names.selector(context.name, "worker")},
            "podTargetLabels": _POD_LABELS,
            "podMetricsEndpoints": [{"port": "health", "path": "/metrics"}],
        },
    }


def _scheme(context: Context) -> Manifest:
    if context.spec.gateway.tls is None:
        return {}
    # Prometheus comes by the pods' addresses, which are in no certificate.
    return {"scheme": "https", "tlsConfig": {"insecureSkipVerify": True}}


def _gateway_monitor(context: Context) -> Manifest:
    return {
        "apiVersion": _API_VERSION,
        "kind": "ServiceMonitor",
        "metadata": metadata(context, names.gateway(context.name), "gateway"),
        "spec": {
            "selector": {"matchLabels": names.selector(context.name, "gateway")},
            "podTargetLabels": [names.LABEL_SERVICE],
            "endpoints": [{"port": "http", "path": "/metrics", **_scheme(context)}],
        },
    }
