"""What the operator would make of a service: the API server takes every manifest of it.

By dry run, so that nothing comes of it but the answer; the service and its accounts are real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from baton_operator import kinds
from baton_operator.resources.context import Context, Installation
from baton_operator.resources.pods.model_cache import fetch_job
from baton_operator.resources.revision_config import revision_config
from baton_operator.resources.shared import children
from baton_operator.resources.worker_deployment import workload
from baton_operator.seen import ServiceSeen
from baton_operator.types.model_service import ModelService
from cluster.baton_objects import EXAMPLES, install_crds
from cluster.cluster import Cluster, CommandFailed
from fakes.pod_security import violations

Manifest = dict[str, Any]
INSTALLATION = Installation(key=b"of this test", redis_address="baton-redis.baton.svc:6379")
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
GPU = {"gpus": 1, "resources": {"requests": {"cpu": "4"}, "limits": {"memory": "32Gi"}}}
RDMA = {"resourceName": "rdma/hca", "hostNetwork": True}
HUB = {"source": "org/model", "tokenSecret": {"name": "hub"}}

SPECS: dict[str, Manifest] = {
    "small": {},
    "all-parts": {
        "imagePullPolicy": "Never",
        "imagePullSecrets": ["registry"],
        "model": {**HUB, "cache": {"type": "NewClaim", "size": "9Gi"}, "maxModelLen": 4096},
        "tiers": {"hostMemory": "8Gi", "disk": {"size": "50Gi", "storageClassName": "fast"}},
        "security": {"mtlsSecret": "pki"},
        "gateway": {
            "tls": {"secretName": "cert"},
            "ingress": {"className": "nginx", "host": "llm.example.com", "tlsSecret": "cert"},
            "autoscaling": {"maxReplicas": 9},
            "service": {"type": "LoadBalancer", "annotations": {"example.com/a": "b"}},
        },
    },
    "per-pod": {"model": {**HUB, "cache": {"type": "PerPod", "size": "40Gi"}}},
    "own-claim": {
        "model": {
            "source": "/llama",
            "cache": {
                "type": "ExistingClaim",
                "claimName": "weights",
                "accessMode": "ReadOnlyMany",
            },
        }
    },
    "own-redis": {"store": {"redis": {"secret": {"name": "redis"}}}},
    "overlaid": {
        "pools": [
            {
                "name": "all",
                "role": "any",
                **GPU,
                "podTemplate": {
                    "metadata": {"labels": {"kueue.x-k8s.io/queue-name": "serving"}},
                    "spec": {
                        "nodeSelector": {"env": "prod"},
                        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                        "securityContext": {"runAsUser": None, "fsGroupChangePolicy": "Always"},
                        "volumes": [
                            {"name": "shm", "emptyDir": {"sizeLimit": "8Gi"}},
                            {"name": "extra", "configMap": {"name": "extra"}},
                        ],
                        "containers": [
                            {
                                "name": "baton",
                                "env": [{"name": "NCCL_DEBUG", "value": "WARN"}],
                                "livenessProbe": {"periodSeconds": 60},
                                "volumeMounts": [{"name": "extra", "mountPath": "/opt/extra"}],
                            }
                        ],
                    },
                },
            }
        ]
    },
}
REFUSED: dict[str, Manifest] = {
    "rdma": {"transport": {"profile": "rdma", "rdma": RDMA}},
    "node": {"transport": {"profile": "node"}},
    "host-path": {"model": {**HUB, "cache": {"type": "HostPath", "path": "/mnt/models"}}},
}


@pytest.fixture(scope="module")
def crds(cluster: Cluster) -> None:
    install_crds(cluster)


@pytest.fixture
def restricted(cluster: Cluster, crds: None) -> Iterator[str]:
    """A namespace that takes restricted pods alone."""
    with cluster.namespace(RESTRICTED) as name:
        yield name


def service(spec: Manifest) -> Manifest:
    pools = [{"name": "prefill", "role": "prefill"}, {"name": "decode", "role": "decode"}]
    return {
        "apiVersion": "baton.dev/v1alpha1",
        "kind": "ModelService",
        "metadata": {"name": "demo"},
        "spec": {"model": {"source": "baton-tiny"}, "pools": pools, **spec},
    }


def placed(cluster: Cluster, namespace: str, *documents: Manifest) -> list[Context]:
    """The services, made in the namespace with accounts, without which their pods cannot be."""
    cluster.apply(*documents, namespace=namespace)
    contexts = []
    for document in cluster.get_all("modelservices", namespace):
        found = ModelService.model_validate(document)
        meta = document["metadata"]
        seen = ServiceSeen(meta["name"], namespace, meta["uid"], meta["generation"], found.spec)
        image = found.spec.image or "registry.example/baton:1"
        contexts.append(Context(seen, INSTALLATION, image, "c0ffee"))
    accounts = [
        each
        for context in contexts
        for each in children(context)
        if each["kind"] == "ServiceAccount"
    ]
    cluster.apply(*accounts, namespace=namespace)
    return contexts


def everything(context: Context) -> list[Manifest]:
    """All manifests of kinds that every cluster serves."""
    made = [
        *children(context),
        revision_config(context, "r1"),
        *(workload(context, pool, "r1", pool.replicas) for pool in context.spec.pools),
        fetch_job(context),
    ]
    return [each for each in made if not kinds.by_name(each["kind"]).optional]


def pods(context: Context) -> list[Manifest]:
    """A pod of each template."""
    templates = [
        (each["metadata"]["name"], each["spec"]["template"])
        for each in everything(context)
        if "template" in each.get("spec", {})
    ]
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], "name": f"{name}-0"},
            "spec": template["spec"],
        }
        for name, template in templates
    ]


def dry_run(cluster: Cluster, namespace: str, manifests: list[Manifest]) -> None:
    """As the operator applies. Raises CommandFailed with what the API server says."""
    documents = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
    options = ["--server-side", "--force-conflicts", "--dry-run=server", "-n", namespace]
    cluster.kubectl("apply", *options, "-f", "-", stdin=documents)


@pytest.mark.parametrize("name", SPECS)
def test_manifests_and_pods_fit_a_restricted_namespace(
    cluster: Cluster, restricted: str, name: str
) -> None:
    (context,) = placed(cluster, restricted, service(SPECS[name]))
    dry_run(cluster, restricted, [*everything(context), *pods(context)])


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_more_is_refused_there_as_the_checker_says(
    cluster: Cluster, restricted: str, name: str
) -> None:
    (context,) = placed(cluster, restricted, service(REFUSED[name]))
    dry_run(cluster, restricted, everything(context))
    for pod in pods(context):
        if violations(pod):
            with pytest.raises(CommandFailed, match='violates PodSecurity "restricted'):
                dry_run(cluster, restricted, [pod])
        else:
            dry_run(cluster, restricted, [pod])


def test_all_examples_become_manifests_that_are_taken(
    cluster: Cluster, crds: None, namespace: str
) -> None:
    documents = [
        each
        for path in sorted(EXAMPLES.glob("*.yaml"))
        for each in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        if each["kind"] == "ModelService"
    ]
    contexts = placed(cluster, namespace, *documents)
    assert len(contexts) == len(documents) > 20
    dry_run(cluster, namespace, [each for context in contexts for each in everything(context)])
