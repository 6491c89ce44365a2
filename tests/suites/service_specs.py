"""ModelServices that are refused, and why: for the typed models and for the API server alike.

Each is `PAIR` with something laid over it.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

Spec = dict[str, Any]

PREFILL: Spec = {"name": "prefill", "role": "prefill"}
DECODE: Spec = {"name": "decode", "role": "decode"}
PAIR: Spec = {"model": {"source": "baton-tiny"}, "pools": [PREFILL, DECODE]}
REDIS = "redis://redis.data:6379/0"
ROUTE: Spec = {"parentRefs": [{"name": "front"}], "hostnames": ["llm.example.com"]}


class Refused(NamedTuple):
    """What is laid over PAIR, and a part of the message that says what to change."""

    over: Spec
    message: str


class Change(NamedTuple):
    """A change from one spec to another, each laid over PAIR, that is refused."""

    before: Spec
    after: Spec
    message: str


def laid_over(base: Spec, over: Spec) -> Spec:
    """`base` with `over` merged into its objects; lists and all else are replaced."""
    merged = copy.deepcopy(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = laid_over(old, value) if both else copy.deepcopy(value)
    return merged


def spec(**over: Any) -> Spec:
    return laid_over(PAIR, over)


def manifest(name: str, over: Spec | None = None, namespace: str = "default") -> Spec:
    return {
        "apiVersion": "baton.dev/v1alpha1",
        "kind": "ModelService",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec(**(over or {})),
    }


def _pools(**of_decode: Any) -> Spec:
    """Over PAIR: a pair whose decode pool has these fields."""
    return {"pools": [PREFILL, {**DECODE, **of_decode}]}


def _cache(**fields: Any) -> Spec:
    return {"model": {"source": "org/model", "cache": fields}}


BY_RULE: dict[str, Refused] = {
    "prefill alone": Refused({"pools": [PREFILL]}, "a prefill pool needs a decode pool"),
    "decode alone": Refused({"pools": [DECODE]}, "a decode pool needs a prefill pool"),
    "any beside a pair": Refused(
        {"pools": [PREFILL, DECODE, {"name": "both", "role": "any"}]},
        "pools of role any stand alone",
    ),
    "block sizes differ": Refused(
        _pools(engine={"blockSize": 32}), "engine.blockSize has to be the same in all pools"
    ),
    "engines differ": Refused(
        _pools(engine={"kind": "mock"}), "engine.kind has to be the same in all pools"
    ),
    "no prefill to disaggregate with": Refused(
        {
            "pools": [{"name": "all", "role": "any"}],
            "routing": {"disaggregation": "always"},
        },
        "routing.disaggregation always needs a prefill pool",
    ),
    "a reserved pool name": Refused(_pools(name="gateway"), "a pool cannot be called gateway"),
    "no GPUs": Refused(_pools(gpus=0), "gpus has to be 1 or more; leave it out"),
    "fewer GPUs than none": Refused(_pools(gpus=-1), "gpus has to be 1 or more; leave it out"),
    "more GPUs than ranks": Refused(_pools(gpus=2), "gpus * parallelism.nodes has to equal"),
    "fewer GPUs than ranks": Refused(
        _pools(gpus=1, parallelism={"tensor": 2}), "gpus * parallelism.nodes has to equal"
    ),
    "ranks that do not divide": Refused(
        _pools(parallelism={"tensor": 3, "nodes": 2}), "has to be a multiple of nodes"
    ),
    "a GPU's name without number": Refused(
        _pools(gpuResource="nvidia.com/mig-1g.10gb"), "set gpus, too, or remove it"
    ),
    "GPUs given twice": Refused(
        _pools(gpus=1, resources={"limits": {"nvidia.com/gpu": 1}}),
        "GPUs are asked for with gpus",
    ),
    "GPUs requested twice": Refused(
        _pools(gpus=1, resources={"requests": {"nvidia.com/gpu": "1"}}),
        "GPUs are asked for with gpus",
    ),
    "no GPUs among the resources": Refused(
        _pools(resources={"limits": {"nvidia.com/gpu": 0}}), "GPUs are asked for with gpus"
    ),
    "two sizes of KV": Refused(
        _pools(engine={"kvMemory": "8Gi", "kvBlocks": 100}), "give the size of the KV pool once"
    ),
    "a mock's setting for torch": Refused(
        _pools(engine={"mockStepMs": 5}), "settings that begin with mock need kind: mock"
    ),
    "a rollout that cannot move": Refused(
        _pools(rollout={"maxSurge": 0, "maxUnavailable": 0}), "no worker could ever be replaced"
    ),
    "a folder above its volume": Refused(
        {"model": {"source": "/../etc", "cache": {"type": "HostPath", "path": "/models"}}},
        "model.source: give a hub id",
    ),
    "a model by its page": Refused(
        {"model": {"source": "https://huggingface.co/Qwen/Qwen3-8B"}},
        "model.source: give a hub id like org/name",
    ),
    "no claim named": Refused(_cache(type="ExistingClaim"), "set cache.claimName"),
    "a claim for each pod": Refused(
        _cache(type="PerPod", claimName="models"), "cache.claimName is for type ExistingClaim"
    ),
    "no path of the host": Refused(_cache(type="HostPath"), "set cache.path"),
    "a path without host": Refused(_cache(path="/models"), "cache.path is for type HostPath"),
    "a new claim of no size": Refused(_cache(type="NewClaim"), "set cache.size"),
    "a size for what is there": Refused(
        _cache(type="ExistingClaim", claimName="models", size="10Gi"),
        "cache.size is for types NewClaim and PerPod",
    ),
    "a class for what is there": Refused(
        _cache(type="ExistingClaim", claimName="models", storageClassName="fast"),
        "cache.storageClassName is for type NewClaim",
    ),
    "a new claim nobody can fill": Refused(
        _cache(type="NewClaim", size="10Gi", accessMode="ReadOnlyMany"),
        "cache.accessMode ReadOnlyMany is for a claim that holds the model already",
    ),
    "how no claim is mounted": Refused(
        _cache(type="PerPod", accessMode="ReadOnlyMany"), "cache.accessMode is for claims"
    ),
    "how a node's folder is mounted": Refused(
        _cache(type="HostPath", path="/models", accessMode="ReadWriteOnce"),
        "cache.accessMode is for claims",
    ),
    "a folder of no volume": Refused(
        {"model": {"source": "/llama"}}, "model.source is a folder: say in model.cache"
    ),
    "a folder's revision": Refused(
        {
            "model": {
                "source": "/llama",
                "revision": "main",
                "cache": {"type": "HostPath", "path": "/models"},
            }
        },
        "model.revision is for hub ids",
    ),
    "a download to what is read only": Refused(
        _cache(type="ExistingClaim", claimName="models", accessMode="ReadOnlyMany"),
        "nothing can be downloaded to a ReadOnlyMany claim",
    ),
    "rdma without device": Refused(
        {"transport": {"profile": "rdma"}}, "set transport.rdma.resourceName"
    ),
    "a device without rdma": Refused(
        {"transport": {"rdma": {"resourceName": "rdma/hca"}}}, "transport.rdma is for profile rdma"
    ),
    "two networks": Refused(
        {
            "transport": {
                "profile": "rdma",
                "rdma": {
                    "resourceName": "rdma/hca",
                    "hostNetwork": True,
                    "networkAttachment": "fast",
                },
            }
        },
        "a pod has either the node's network or an attachment",
    ),
    "objectives without any": Refused({"slo": {}}, "slo: set ttftSeconds or tpotSeconds"),
    "two ways to a Redis": Refused(
        {"store": {"redis": {"url": REDIS, "cluster": {"addresses": ["a:6379"]}}}},
        "keep one of url, sentinel and cluster",
    ),
    "a password in the open": Refused(
        {"store": {"redis": {"url": "redis://me:secret@redis.data:6379/0"}}},
        "put user and password into a Secret",
    ),
    "no way to a Redis": Refused(
        {"store": {"redis": {}}}, "store.redis: give url, sentinel or cluster"
    ),
    "fewer gateways at most than at least": Refused(
        {"gateway": {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}},
        "maxReplicas has to be at least minReplicas",
    ),
    "scaling by CPU without a request": Refused(
        {
            "gateway": {
                "autoscaling": {"maxReplicas": 4},
                "resources": {"requests": {"memory": "1Gi"}},
            }
        },
        "gateway.autoscaling goes by CPU: add cpu",
    ),
    "two routes for one name": Refused(
        {"gateway": {"httpRoute": ROUTE, "grpcRoute": ROUTE}},
        "an HTTPRoute and a GRPCRoute on one listener need hostnames that differ",
    ),
    "two routes for every name": Refused(
        {
            "gateway": {
                "httpRoute": {"parentRefs": [{"name": "front"}]},
                "grpcRoute": {"parentRefs": [{"name": "front"}]},
            }
        },
        "an HTTPRoute and a GRPCRoute on one listener need hostnames that differ",
    ),
    "a canary in place": Refused(
        {"rollout": {"strategy": "InPlace", "weight": 10}}, "rollout.weight needs strategy"
    ),
}
"""Refused by a rule, with its message."""

BY_SCHEMA: dict[str, Refused] = {
    "no pools": Refused({"pools": []}, "spec.pools"),
    "no model": Refused({"model": None}, "spec.model"),
    "an unknown role": Refused(_pools(role="both"), "spec.pools[1].role"),
    "a pool's name twice": Refused({"pools": [PREFILL, DECODE, DECODE]}, "spec.pools[2]"),
    "a long pool name": Refused(_pools(name="a" * 21), "spec.pools[1].name"),
    "a pool name in capitals": Refused(_pools(name="Decode"), "spec.pools[1].name"),
    "workers below none": Refused(_pools(replicas=-1), "spec.pools[1].replicas"),
    "workers as text": Refused(_pools(replicas="2"), "spec.pools[1].replicas"),
    "half a worker": Refused(_pools(replicas=1.5), "spec.pools[1].replicas"),
    "tensor 0": Refused(_pools(parallelism={"tensor": 0}), "spec.pools[1].parallelism.tensor"),
    "no KV memory": Refused(_pools(engine={"kvMemory": 0}), "spec.pools[1].engine.kvMemory"),
    "an amount in words": Refused(
        _pools(engine={"kvMemory": "eight"}), "spec.pools[1].engine.kvMemory"
    ),
    "a negative amount": Refused(
        _pools(resources={"limits": {"cpu": "-1"}}), "spec.pools[1].resources.limits.cpu"
    ),
    "a weight above all": Refused({"rollout": {"weight": 101}}, "spec.rollout.weight"),
    "a weight below nothing": Refused({"rollout": {"weight": -1}}, "spec.rollout.weight"),
    "a quantile of all": Refused({"slo": {"ttftSeconds": 1, "quantile": 1}}, "spec.slo.quantile"),
    "an objective of nothing": Refused({"slo": {"ttftSeconds": 0}}, "spec.slo.ttftSeconds"),
    "a tenant of no weight": Refused(
        {"tenants": [{"name": "gold", "weight": 0}]}, "spec.tenants[0].weight"
    ),
    "a tenant's name that is a list": Refused(
        {"tenants": [{"name": "gold=3,silver", "weight": 1}]}, "spec.tenants[0].name"
    ),
    "a Redis by its name": Refused({"store": {"redis": {"url": "redis"}}}, "spec.store.redis.url"),
    "no Sentinels": Refused(
        {"store": {"redis": {"sentinel": {"master": "main", "addresses": []}}}},
        "spec.store.redis.sentinel.addresses",
    ),
    "a start in no time": Refused(
        {"model": {"startTimeoutSeconds": 1}}, "spec.model.startTimeoutSeconds"
    ),
    "a quantisation that is not there": Refused(
        {"model": {"quantization": "awq"}}, "spec.model.quantization"
    ),
    "an unknown transport": Refused({"transport": {"profile": "ib"}}, "spec.transport.profile"),
    "a secret elsewhere": Refused(
        {"model": {"tokenSecret": {"name": "other/token"}}}, "spec.model.tokenSecret.name"
    ),
    "a route to nowhere": Refused(
        {"gateway": {"httpRoute": {"parentRefs": []}}}, "spec.gateway.httpRoute.parentRefs"
    ),
    "an Ingress for no host": Refused({"gateway": {"ingress": {}}}, "spec.gateway.ingress.host"),
}
"""Refused by the schema, with the field's path."""

UNKNOWN: dict[str, Refused] = {
    "a field of the spec": Refused({"replicas": 2}, "spec.replicas"),
    "a misspelt field": Refused(_pools(replica=2), "spec.pools[1].replica"),
    "a namespace of a secret": Refused(
        {"model": {"tokenSecret": {"name": "token", "namespace": "other"}}},
        "spec.model.tokenSecret.namespace",
    ),
    "a namespace of a claim": Refused(
        {
            "model": {
                "source": "org/model",
                "cache": {"type": "ExistingClaim", "claimName": "c", "claimNamespace": "other"},
            }
        },
        "spec.model.cache.claimNamespace",
    ),
    "a pod's field beside its spec": Refused(
        _pools(podTemplate={"nodeSelector": {"gpu": "h200"}}),
        "spec.pools[1].podTemplate.nodeSelector",
    ),
}
"""Fields that there are not: refused by `kubectl`'s strict validation, with the field's path."""

CHANGES: dict[str, Change] = {
    "a pool's role": Change(
        {"pools": [PREFILL, DECODE, {"name": "more", "role": "decode"}]},
        {"pools": [PREFILL, DECODE, {"name": "more", "role": "prefill"}]},
        "a pool keeps its role",
    ),
}

ACCEPTED: dict[str, Spec] = {
    "a pair": {},
    "only any": {"pools": [{"name": "all", "role": "any"}]},
    "two pools of a role": {"pools": [PREFILL, DECODE, {"name": "spot", "role": "decode"}]},
    "GPUs over nodes": _pools(gpus=8, parallelism={"tensor": 8, "pipeline": 2, "nodes": 2}),
    "amounts as numbers": _pools(
        engine={"kvMemory": 1073741824}, resources={"requests": {"cpu": 2}, "limits": {"cpu": 2}}
    ),
    "routes on two listeners": {
        "gateway": {
            "httpRoute": {"parentRefs": [{"name": "front", "sectionName": "http"}]},
            "grpcRoute": {"parentRefs": [{"name": "front", "sectionName": "grpc"}]},
        }
    },
    "a Redis in a secret": {"store": {"redis": {"secret": {"name": "redis"}}}},
    "a folder on a claim": {
        "model": {
            "source": "/llama",
            "cache": {"type": "ExistingClaim", "claimName": "m", "accessMode": "ReadOnlyMany"},
        }
    },
    "pods of any kind": _pools(
        podTemplate={
            "metadata": {"labels": {"team": "a"}},
            "spec": {"nodeSelector": {"gpu": "h200"}, "containers": [{"name": "baton"}]},
        }
    ),
    "nulls": {"slo": None, "tenants": None},
}
"""Laid over PAIR, all of them are fine."""
