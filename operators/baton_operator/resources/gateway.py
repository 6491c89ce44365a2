"""The gateways: settings and Deployment."""

from __future__ import annotations

import hashlib
from math import ceil

from baton_operator import names
from baton_operator.resources.context import Context, Manifest
from baton_operator.resources.metadata import metadata
from baton_operator.resources.pods import model_cache, paths, pod
from baton_operator.resources.pods.baton_yaml import UNREADY_WAIT_S, gateway_config
from baton_operator.resources.pods.overlay import lay_over
from baton_operator.resources.pods.store_login import store_environment
from baton_operator.types.pod_template import Resources

_CONFIG_KEY = "baton.yaml"
_STOP_MARGIN_S = 10
"""Between the end of the drain and the kubelet's SIGKILL."""
_STARTUP_PERIOD_S = 2
_DEFAULT_RESOURCES = Resources(requests={"cpu": "500m", "memory": "512Mi"})
"""Requests alone: the index of cached prefixes grows with the KV of all workers."""


def gateway_config_map(context: Context) -> Manifest:
    """The gateways' baton.yaml."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(context, names.gateway(context.name), "gateway"),
        "data": {_CONFIG_KEY: gateway_config(context)},
    }


def gateway_deployment(context: Context) -> Manifest:
    """Rolled one by one, each replaced before it goes; an autoscaler's count is left to it."""
    spec = context.spec.gateway
    count = {} if spec.autoscaling else {"replicas": spec.replicas}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(context, names.gateway(context.name), "gateway"),
        "spec": {
            **count,
            "selector": {"matchLabels": names.selector(context.name, "gateway")},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": context.spec.rollout.progress_deadline_seconds,
            "template": gateway_template(context),
        },
    }


def gateway_template(context: Context) -> Manifest:
    """The pods. Raises ConfigError for a podTemplate that cannot be merged."""
    spec = context.spec.gateway
    volumes = [
        pod.settings(names.gateway(context.name)),
        pod.internal(context),
        *pod.scratch(),
        model_cache.cache_volume(context),
        *pod.user_secrets(context),
    ]
    if spec.tls is not None:
        volumes.append(pod.secret_volume("tls", spec.tls.secret_name, paths.TLS_FOLDER))
    wanted = spec.resources if spec.resources != Resources() else _DEFAULT_RESOURCES
    command = ["baton", "gateway", "--config", f"{paths.CONFIG_FOLDER}/{_CONFIG_KEY}"]
    container = {
        **pod.container_basics(context, pod.CONTAINER, command),
        "env": [
            *store_environment(context),
            *pod.home_environment(),
            *model_cache.hub_environment(context),
        ],
        "ports": [
            {"name": "http", "containerPort": names.GATEWAY_HTTP_PORT, "protocol": "TCP"},
            {"name": "grpc", "containerPort": names.GATEWAY_GRPC_PORT, "protocol": "TCP"},
        ],
        **_probes(context),
        "resources": pod.resources(wanted),
        "volumeMounts": [mount for _, mount in volumes],
    }
    template: Manifest = {
        "metadata": {
            "labels": names.labels(context.name, "gateway"),
            "annotations": {
                "kubectl.kubernetes.io/default-container": pod.CONTAINER,
                names.ANNOTATION_SETTINGS_HASH: _digest(gateway_config(context)),
            },
        },
        "spec": {
            **pod.pod_basics(context, names.gateway(context.name)),
            "terminationGracePeriodSeconds": (
                UNREADY_WAIT_S + spec.drain_timeout_seconds + _STOP_MARGIN_S
            ),
            # One node's end shall not be all gateways' end; where there is one node only, so be it.
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": names.selector(context.name, "gateway")},
                }
            ],
            "containers": [container],
            "volumes": [each for each, _ in volumes],
        },
    }
    return lay_over(template, spec.pod_template, "gateway.podTemplate")


def _probes(context: Context) -> Manifest:
    """A gateway whose workers are all gone is ready: requests wait in it."""
    secure = context.spec.gateway.tls is not None
    tries = ceil(context.spec.model.start_timeout_seconds / _STARTUP_PERIOD_S)
    return {
        "startupProbe": {
            **_get("/health", secure),
            "periodSeconds": _STARTUP_PERIOD_S,
            "timeoutSeconds": 3,
            "failureThreshold": tries,
        },
        "livenessProbe": {
            **_get("/health", secure),
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "readinessProbe": {
            **_get("/ready", secure),
            "periodSeconds": 2,
            "timeoutSeconds": 3,
            "failureThreshold": 1,
        },
    }


def _get(path: str, secure: bool) -> Manifest:
    # The kubelet looks at no certificate.
    scheme = {"scheme": "HTTPS"} if secure else {}
    return {"httpGet": {"path": path, "port": "http", **scheme}}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
