"""The pod of a worker: one worker, with a Ray of its own for its ranks."""

from __future__ import annotations

from math import ceil

from baton_operator import names
from baton_operator.resources.context import Context, Manifest
from baton_operator.resources.pods import model_cache, paths, pod
from baton_operator.resources.pods.overlay import lay_over
from baton_operator.resources.pods.store_login import store_environment
from baton_operator.resources.pods.transport import apply_transport, transport_limits
from baton_operator.types.pools import PoolSpec
from baton_operator.types.scalars import whole_bytes

STOP_MARGIN_S = 15
"""Between the end of the drain and the kubelet's SIGKILL: leaving the store, stopping Ray."""
_STARTUP_PERIOD_S = 5
_SHM_BYTES = "1Gi"


def worker_template(context: Context, pool: PoolSpec, revision: str) -> Manifest:
    """The pod template of a pool's revision, podTemplate laid over it.

    Raises ConfigError for a podTemplate that cannot be merged.
    """
    volumes = _volumes(context, revision)
    container = {
        **pod.container_basics(
            context,
            pod.CONTAINER,
            [
                *("baton", "worker", "--config"),
                f"{paths.CONFIG_FOLDER}/{names.pool_config_key(pool.name)}",
            ],
        ),
        "env": _environment(context),
        "ports": [
            {"name": "health", "containerPort": names.WORKER_HEALTH_PORT, "protocol": "TCP"},
            {"name": "tcp-baton", "containerPort": names.WORKER_PORT, "protocol": "TCP"},
        ],
        **_probes(context),
        "volumeMounts": [mount for _, mount in volumes],
    }
    if resources := _resources(context, pool):
        container["resources"] = resources
    template: Manifest = {
        "metadata": {
            "labels": names.worker_labels(context.name, pool.name, pool.role, revision),
            "annotations": {"kubectl.kubernetes.io/default-container": pod.CONTAINER},
        },
        "spec": {
            **pod.pod_basics(context, names.workers(context.name)),
            "terminationGracePeriodSeconds": pool.drain_seconds + STOP_MARGIN_S,
            "containers": [container],
            "volumes": [each for each, _ in volumes],
        },
    }
    apply_transport(context.spec.transport, template)
    return lay_over(template, pool.pod_template, f"pools[{pool.name}].podTemplate")


def _environment(context: Context) -> list[Manifest]:
    """What differs from pod to pod, is secret, or is read by libraries."""
    return [
        pod.field("BATON_WORKER__WORKER_ID", "metadata.name"),
        pod.field("BATON_WORKER__HOST", "status.podIP"),
        pod.field("BATON_WORKER__NODE", "spec.nodeName"),
        pod.field("BATON_WORKER__REVISION", f"metadata.labels['{names.LABEL_REVISION}']"),
        *store_environment(context),
        {"name": "RAY_AUTH_MODE", "value": "token"},
        {"name": "RAY_AUTH_TOKEN_PATH", "value": paths.RAY_TOKEN_FILE},
        *pod.home_environment(),
        {"name": "TRITON_CACHE_DIR", "value": f"{paths.HOME}/triton"},
        *model_cache.hub_environment(context),
    ]


def _volumes(context: Context, revision: str) -> list[tuple[Manifest, Manifest]]:
    disk = context.spec.tiers.disk
    volumes = [
        pod.settings(names.revision_config(context.name, revision)),
        pod.internal(context),
        *pod.scratch(),
        # Ray's object store and NCCL; the default of 64 MiB stops both.
        pod.volume("shm", "/dev/shm", {"emptyDir": {"medium": "Memory", "sizeLimit": _SHM_BYTES}}),
        model_cache.cache_volume(context),
        *pod.user_secrets(context),
    ]
    if disk is None:
        return volumes
    if disk.storage_class_name is None:
        source: Manifest = {"emptyDir": {"sizeLimit": disk.size}}
    else:
        claim = {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": disk.storage_class_name,
            "resources": {"requests": {"storage": disk.size}},
        }
        source = {"ephemeral": {"volumeClaimTemplate": {"spec": claim}}}
    return [*volumes, pod.volume("kv", paths.DISK_TIER, source)]


def _probes(context: Context) -> Manifest:
    """Startup lasts as long as the model may take; liveness is the engine's loop, not its load."""
    tries = ceil(context.spec.model.start_timeout_seconds / _STARTUP_PERIOD_S)
    return {
        "startupProbe": {
            **_get("/startupz"),
            "periodSeconds": _STARTUP_PERIOD_S,
            "timeoutSeconds": 3,
            "failureThreshold": tries,
        },
        "livenessProbe": {
            **_get("/livez"),
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "readinessProbe": {
            **_get("/readyz"),
            "periodSeconds": 2,
            "timeoutSeconds": 3,
            "failureThreshold": 2,
        },
    }


def _get(path: str) -> Manifest:
    return {"httpGet": {"path": path, "port": "health"}}


def _resources(context: Context, pool: PoolSpec) -> Manifest:
    result = pod.resources(pool.resources)
    devices = transport_limits(context.spec.transport)
    if pool.gpus is not None:
        devices[pool.gpu_resource] = str(pool.gpus)
    if devices:
        # What nodes count in pieces is asked for by its limit; the request follows.
        result["limits"] = {**result.get("limits", {}), **devices}
    if context.spec.tiers.host_memory is not None:
        more = whole_bytes(context.spec.tiers.host_memory)
        for part in ("requests", "limits"):
            if given := result.get(part, {}).get("memory"):
                result[part]["memory"] = str(whole_bytes(given) + more)
    return result
