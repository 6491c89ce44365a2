"""ModelServices as the builders of manifests are given them, and what stands in a pod template."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st
from pydantic import ValidationError

from baton_operator.resources.context import Context, Installation, Manifest
from baton_operator.seen import ServiceSeen
from baton_operator.types.model_service import ModelServiceSpec

UID = "6f7a1c52-0f0e-4f1b-9a62-3a6f0d5b8c11"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
INSTALLATION = Installation(
    key=b"of this installation",
    image="registry.example/baton:1",
    redis_address="baton-redis.baton-system.svc:6379",
    monitors=True,
)
PAIR: list[dict[str, Any]] = [
    {"name": "prefill", "role": "prefill"},
    {"name": "decode", "role": "decode"},
]


def context_of(
    spec: dict[str, Any] | None = None,
    *,
    name: str = "demo",
    uid: str = UID,
    installation: Installation = INSTALLATION,
    image: str = "registry.example/baton:1",
    commit: str | None = None,
) -> Context:
    """The service of baton-tiny with a pair of pools, and `spec` over it."""
    whole = {"model": {"source": "baton-tiny"}, "pools": PAIR, **(spec or {})}
    seen = ServiceSeen(name, "models", uid, 1, ModelServiceSpec.model_validate(whole))
    return Context(seen, installation, image, commit)


def with_pool(context: Context, **fields: Any) -> Context:
    """With one pool `all` alone, which has these fields; names as in YAML."""
    spec = context.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    spec["pools"] = [{"name": "all", "role": "any", **fields}]
    changed = replace(context.service, spec=ModelServiceSpec.model_validate(spec))
    return replace(context, service=changed)


def container(template: Manifest) -> dict[str, Any]:
    """Baton's own in a pod template."""
    found: dict[str, Any] = template["spec"]["containers"][0]
    return found


def environment(template: Manifest) -> dict[str, Any]:
    """Its variables: texts, or where the value comes from."""
    return {
        each["name"]: each["value"] if "value" in each else each["valueFrom"]
        for each in container(template)["env"]
    }


def mounts(template: Manifest) -> dict[str, tuple[dict[str, Any], bool]]:
    """By path: the volume that is mounted there, and whether only for reading."""
    volumes = {each["name"]: each for each in template["spec"]["volumes"]}
    return {
        each["mountPath"]: (volumes[each["name"]], bool(each.get("readOnly")))
        for each in container(template)["volumeMounts"]
    }


_CACHES: list[dict[str, Any]] = [
    {"type": "PerPod"},
    {"type": "PerPod", "size": "40Gi"},
    {"type": "NewClaim", "size": "100Gi", "storageClassName": "fast"},
    {"type": "ExistingClaim", "claimName": "weights"},
    {"type": "HostPath", "path": "/var/models"},
]
_MODELS = st.one_of(
    st.just({"source": "baton-tiny"}),
    st.fixed_dictionaries(
        {"source": st.just("org/model"), "cache": st.sampled_from(_CACHES)},
        optional={
            "revision": st.sampled_from(["main", "v1.2"]),
            "tokenSecret": st.just({"name": "hub"}),
            "maxModelLen": st.integers(1, 100_000),
            "startTimeoutSeconds": st.integers(10, 7200),
        },
    ),
)
_TEMPLATES: list[dict[str, Any]] = [
    {"spec": {"nodeSelector": {"gpu": "yes"}, "tolerations": [{"operator": "Exists"}]}},
    {"metadata": {"labels": {"team": "a"}, "annotations": {"example.com/why": "because"}}},
    {"spec": {"volumes": [{"name": "more", "emptyDir": {}}]}},
    {"spec": {"containers": [{"name": "baton", "env": [{"name": "A", "value": "1"}]}]}},
    {"spec": {"terminationGracePeriodSeconds": 1, "priorityClassName": "high"}},
]
_POOL = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.integers(0, 5),
        "drainSeconds": st.integers(1, 600),
        "resources": st.sampled_from(
            [{"limits": {"cpu": "2", "memory": "4Gi"}}, {"requests": {"memory": "1Gi"}}]
        ),
        "podTemplate": st.sampled_from(_TEMPLATES),
        "rollout": st.sampled_from([{"maxSurge": 0, "maxUnavailable": 1}, {"maxSurge": 2}]),
    },
)
_WIDTHS: list[dict[str, Any]] = [
    {},
    {"gpus": 1},
    {"gpus": 4, "parallelism": {"tensor": 4}},
    {"gpus": 8, "parallelism": {"tensor": 8, "pipeline": 2, "nodes": 2}},
]
_STORES: list[dict[str, Any]] = [
    {},
    {"redis": {"url": "redis://redis.data:6379/0"}},
    {"redis": {"url": "redis://redis.data:6379/0", "secret": {"name": "login"}}},
    {"redis": {"sentinel": {"master": "main", "addresses": ["a:26379", "b:26379"]}}},
    {"redis": {"cluster": {"addresses": ["a:6379", "b:6379"]}}},
]
_GATEWAY = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.integers(1, 4),
        "auth": st.sampled_from(["auto", "keys", "off"]),
        "tls": st.just({"secretName": "cert"}),
        "ingress": st.just({"host": "llm.example.com"}),
        "httpRoute": st.just({"parentRefs": [{"name": "edge"}]}),
        "grpcRoute": st.just({"parentRefs": [{"name": "edge"}]}),
        "autoscaling": st.just({"minReplicas": 1, "maxReplicas": 4}),
        "drainTimeoutSeconds": st.integers(1, 600),
        "podTemplate": st.sampled_from(_TEMPLATES),
    },
)


@st.composite
def contexts(draw: st.DrawFn) -> Context:
    """Any valid service, as far as builders make a difference."""
    engine = draw(st.sampled_from([{}, {"kind": "mock"}, {"blockSize": 32, "maxSequences": 7}]))
    pools = []
    for name, role in draw(
        st.sampled_from(
            [
                [("prefill", "prefill"), ("decode", "decode")],
                [("all", "any")],
                [("fast", "prefill"), ("slow", "prefill"), ("d" * 20, "decode")],
            ]
        )
    ):
        width = draw(st.sampled_from(_WIDTHS))
        pools.append({"name": name, "role": role, "engine": engine, **width, **draw(_POOL)})
    spec: dict[str, Any] = {
        "model": draw(_MODELS),
        "pools": pools,
        "store": draw(st.sampled_from(_STORES)),
        "gateway": draw(_GATEWAY),
    }
    profile = draw(st.sampled_from(["tcp", "tcp", "rdma", "node"]))
    spec["transport"] = {"profile": profile}
    if profile == "rdma":
        spec["transport"]["rdma"] = {"resourceName": "rdma/ib", "hostNetwork": draw(st.booleans())}
    if draw(st.booleans()):
        spec["tiers"] = {"hostMemory": "2Gi", "disk": {"size": "10G"}}
    if draw(st.booleans()):
        spec["security"] = {"mtlsSecret": "inner"}
    if draw(st.booleans()):
        spec["tenants"] = [{"name": "gold", "weight": 3.0}]
    name = draw(st.sampled_from(["demo", "a", "s" * 38]))
    commit = draw(st.sampled_from([None, COMMIT]))
    try:
        return context_of(spec, name=name, commit=commit)
    except ValidationError:
        # A rule that says what does not go together; each has a test of its own.
        assume(False)
        raise
