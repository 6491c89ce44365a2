"""The kinds of objects that the operator touches: where each is in the API.

One table instead of discovery: the operator's permissions name the same plurals, and a kind that
is missing there is then missing here too.
"""

from __future__ import annotations

from dataclasses import dataclass

from baton_operator import names


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object, namespaced unless said otherwise."""

    kind: str
    api_version: str
    plural: str
    optional: bool = False
    """Of an add-on's CRD: may be missing in a cluster."""

    @property
    def group(self) -> str:
        """Empty for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        return self.api_version.rpartition("/")[2]

    @property
    def root(self) -> str:
        """Path of the group and version: `/api/v1`, `/apis/apps/v1`."""
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"

    def path(self, namespace: str | None, name: str | None = None) -> str:
        """Of one object, of a namespace's, or of all with `namespace` None."""
        within = f"/namespaces/{namespace}" if namespace else ""
        return f"{self.root}{within}/{self.plural}" + (f"/{name}" if name else "")


SERVICE = Kind(names.SERVICE_KIND, names.API_VERSION, names.SERVICE_PLURAL)
POOL = Kind(names.POOL_KIND, names.API_VERSION, names.POOL_PLURAL)
POD = Kind("Pod", "v1", "pods")
SECRET = Kind("Secret", "v1", "secrets")
EVENT = Kind("Event", "v1", "events")
LEASE = Kind("Lease", "coordination.k8s.io/v1", "leases")
NAMESPACE = Kind("Namespace", "v1", "namespaces")
LEADER_WORKER_SET = Kind(
    "LeaderWorkerSet", "leaderworkerset.x-k8s.io/v1", "leaderworkersets", optional=True
)

CHILDREN = (
    POOL,
    Kind("Deployment", "apps/v1", "deployments"),
    LEADER_WORKER_SET,
    Kind("Service", "v1", "services"),
    Kind("ServiceAccount", "v1", "serviceaccounts"),
    Kind("ConfigMap", "v1", "configmaps"),
    Kind("PersistentVolumeClaim", "v1", "persistentvolumeclaims"),
    Kind("Job", "batch/v1", "jobs"),
    Kind("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets"),
    Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies"),
    Kind("Ingress", "networking.k8s.io/v1", "ingresses"),
    Kind("HorizontalPodAutoscaler", "autoscaling/v2", "horizontalpodautoscalers"),
    Kind("HTTPRoute", "gateway.networking.k8s.io/v1", "httproutes", optional=True),
    Kind("GRPCRoute", "gateway.networking.k8s.io/v1", "grpcroutes", optional=True),
    Kind("PodMonitor", "monitoring.coreos.com/v1", "podmonitors", optional=True),
    Kind("ServiceMonitor", "monitoring.coreos.com/v1", "servicemonitors", optional=True),
)
"""What a service owns and the operator watches. Secrets are not among them: those are written and
never read."""

WATCHED = (SERVICE, *CHILDREN, POD)

_BY_NAME = {each.kind: each for each in (SERVICE, *CHILDREN, POD, SECRET, EVENT, LEASE, NAMESPACE)}


def by_name(kind: str) -> Kind:
    """Raises KeyError for a kind that the operator has no business with."""
    return _BY_NAME[kind]
