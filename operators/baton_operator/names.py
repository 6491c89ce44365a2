"""API group, kinds, labels, object names and ports: the only place that spells them.

Everything that carries one of a service's names is built here, so that builders and selectors can
never disagree.
"""

from __future__ import annotations

import hashlib
from typing import Literal

GROUP = "baton.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
CATEGORY = "baton"

SERVICE_KIND = "ModelService"
SERVICE_PLURAL = "modelservices"
SERVICE_SHORT = "bms"
POOL_KIND = "WorkerPool"
POOL_PLURAL = "workerpools"
POOL_SHORT = "bpool"

FIELD_MANAGER = "baton-operator"

Component = Literal["worker", "gateway", "fetch"]

LABEL_NAME = "app.kubernetes.io/name"
LABEL_INSTANCE = "app.kubernetes.io/instance"
LABEL_COMPONENT = "app.kubernetes.io/component"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_SERVICE = f"{GROUP}/service"
LABEL_POOL = f"{GROUP}/pool"
LABEL_ROLE = f"{GROUP}/role"
LABEL_REVISION = f"{GROUP}/revision"
ANNOTATION_SETTINGS_HASH = f"{GROUP}/settings-hash"
"""On gateway pods: a change of their settings rolls them."""
ANNOTATION_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
ANNOTATION_DRAIN_SINCE = f"{GROUP}/drain-since"
"""On worker pods: unix seconds at which the operator chose it to go."""
ANNOTATION_POOL_REPLICAS = f"{GROUP}/replicas"
"""On WorkerPools: the ModelService's count that was written last."""
ANNOTATION_MANIFEST_HASH = f"{GROUP}/manifest-hash"
"""On every child: of what was applied."""
ANNOTATION_INPUT_HASH = f"{GROUP}/input-hash"
"""On children that pods are made from: of what the user asked for, whatever version of the
operator built it."""
LABEL_GROUP = "leaderworkerset.sigs.k8s.io/group-index"
LABEL_GROUP_POD = "leaderworkerset.sigs.k8s.io/worker-index"
"""On the pods of a LeaderWorkerSet, by its controller."""
GROUP_LEADER = {LABEL_GROUP_POD: "0"}
"""Labels of a group's pod that is the worker."""

GATEWAY_HTTP_PORT = 8000
GATEWAY_GRPC_PORT = 9000
WORKER_HEALTH_PORT = 8081
WORKER_PORT = 8082

MAX_OBJECT_NAME = 63
MAX_WORKLOAD_NAME = 46
"""Of what makes pods: `-<10 hash>-<5 random>` still fits a host name of 63, and a LeaderWorkerSet's
StatefulSets, whose revision label adds 11, fit a label."""
MAX_SERVICE_NAME = MAX_WORKLOAD_NAME - len("-gateway")
"""Of a ModelService: its gateway's name, which clients type, is never cut."""
MAX_POOL_NAME = 20
RESERVED_POOL_NAMES = ("gateway", "worker", "redis", "model", "internal", "fetch")
"""A pool of such a name would share object names with another part of its service."""


def joined(*parts: str, limit: int = MAX_OBJECT_NAME) -> str:
    """The parts with dashes between; when too long, cut and ended by a hash of all of it.

    The hash covers the parts and not only the text, so that two long names that differ after the
    cut stay two names.
    """
    name = "-".join(parts)
    if len(name) <= limit:
        return name
    digest = hashlib.sha256("/".join(parts).encode()).hexdigest()[:8]
    return f"{name[: limit - 9].rstrip('-')}-{digest}"


def worker_pool(service: str, pool: str) -> str:
    """The WorkerPool, and the PodDisruptionBudget of its pods."""
    return joined(service, pool)


def pool_workload(service: str, pool: str, revision: str) -> str:
    """The Deployment or LeaderWorkerSet of a pool's revision."""
    return joined(service, pool, revision, limit=MAX_WORKLOAD_NAME)


def gateway(service: str) -> str:
    """Deployment, Service, ServiceAccount, budget, NetworkPolicy, ConfigMap, Ingress and routes."""
    return joined(service, "gateway", limit=MAX_WORKLOAD_NAME)


def workers(service: str) -> str:
    """ServiceAccount, NetworkPolicy and PodMonitor of all workers."""
    return joined(service, "worker")


def revision_config(service: str, revision: str) -> str:
    """The immutable ConfigMap with the settings of each pool, under `pool_config_key`."""
    return joined(service, revision)


def pool_config_key(pool: str) -> str:
    """Key, and so file name, of a pool's settings in `revision_config`."""
    return f"{pool}.yaml"


def internal_secret(service: str, uid: str) -> str:
    """The Secret with the worker token, the Ray token and the store's address.

    The operator reads no Secret, so it could not tell one of a user's from its own: the service's
    uid keeps their names apart.
    """
    return joined(service, "internal", hashlib.sha256(uid.encode()).hexdigest()[:8])


def model_claim(service: str) -> str:
    """The PersistentVolumeClaim of a cache of type NewClaim."""
    return joined(service, "model")


def fetch_job(service: str, digest: str) -> str:
    """The Job that downloads what `digest` (of source, revision, cache) names."""
    return joined(service, "fetch", digest)


def labels(service: str, component: Component) -> dict[str, str]:
    """Of every object of a service."""
    return {
        LABEL_NAME: "baton",
        LABEL_INSTANCE: service,
        LABEL_COMPONENT: component,
        LABEL_MANAGED_BY: FIELD_MANAGER,
        LABEL_SERVICE: service,
    }


def worker_labels(service: str, pool: str, role: str, revision: str) -> dict[str, str]:
    """Of a worker pod."""
    return {
        **labels(service, "worker"),
        LABEL_POOL: pool,
        LABEL_ROLE: role,
        LABEL_REVISION: revision,
    }


def selector(service: str, component: Component) -> dict[str, str]:
    """Labels that pick all pods of one component of a service."""
    return {LABEL_SERVICE: service, LABEL_COMPONENT: component}


def pool_selector(service: str, pool: str) -> dict[str, str]:
    """Labels that pick a pool's pods, of every revision."""
    return {**selector(service, "worker"), LABEL_POOL: pool}


def revision_selector(service: str, pool: str, revision: str) -> dict[str, str]:
    """Labels that pick a pool's pods of one revision."""
    return {**pool_selector(service, pool), LABEL_REVISION: revision}


def selector_text(selected: dict[str, str]) -> str:
    """As the API takes it in queries and as `scale` reports it: `a=b,c=d`."""
    return ",".join(f"{key}={value}" for key, value in sorted(selected.items()))
