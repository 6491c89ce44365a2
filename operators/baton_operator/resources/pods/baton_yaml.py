"""baton.yaml: the settings of workers and gateways, by their names in Baton's tree of settings.

What the spec leaves open is left out, so that Baton's own defaults hold. What differs from pod to
pod, or is secret, comes by environment (see `environment`).
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import yaml

from baton_operator import names
from baton_operator.resources.context import Context
from baton_operator.resources.pods import paths
from baton_operator.resources.pods.store_login import key_prefix
from baton_operator.types.pools import PoolSpec
from baton_operator.types.scalars import amount, whole_bytes

Tree = dict[str, Any]

UNREADY_WAIT_S = 5
"""In which a stopping gateway still accepts: endpoints and load balancers take seconds."""

BUNDLED_LASTING_S = 7 * 24 * 3600
"""For which the bundled store keeps what has no TTL of its own after the last gateway went: a
deleted service has to leave nothing there for ever, and one without gateways over a weekend, or a
cluster that is down, has to find its keys again."""

_UCX_TLS = {
    # cuda_copy brings KV from a GPU to where TCP can take it.
    "tcp": "tcp,self,cuda_copy",
    # Pods of one node share no memory, so UCX shall not try; TCP stays as the way out.
    "rdma": "^sm,cuda_ipc",
    # Whatever is fastest.
    "node": None,
}


def worker_config(context: Context, pool: PoolSpec) -> str:
    """Of the workers of a pool."""
    spec, engine, tiers = context.spec, pool.engine, context.spec.tiers
    tree: Tree = {
        "model": _model(context),
        "engine": {
            "kind": engine.kind,
            "block_size": engine.block_size,
            "kv_blocks": engine.kv_blocks,
            "kv_memory_bytes": engine.kv_memory and whole_bytes(engine.kv_memory),
            "max_batch_tokens": engine.max_batch_tokens,
            "max_sequences": engine.max_sequences,
            "queue_policy": engine.queue_policy,
            "num_threads": engine.num_threads or _cores(pool),
            "mock_prefill_us_per_token": engine.mock_prefill_us_per_token,
            "mock_step_ms": engine.mock_step_ms,
            "mock_step_us_per_sequence": engine.mock_step_us_per_sequence,
            "mock_noise": engine.mock_noise,
        },
        "worker": {
            "role": pool.role,
            "port": names.WORKER_PORT,
            "health_port": names.WORKER_HEALTH_PORT,
            "ray": True,
            "num_nodes": pool.parallelism.nodes if pool.parallelism.nodes > 1 else None,
            "drain_grace_s": pool.drain_seconds,
        },
        "transfer": {
            # The default is loopback.
            "ucx_net_devices": "",
            "ucx_tls": _UCX_TLS[spec.transport.profile],
            "expect_rdma": spec.transport.profile == "rdma",
        },
        "tiers": {
            "host_bytes": tiers.host_memory and whole_bytes(tiers.host_memory),
            "disk_bytes": tiers.disk and whole_bytes(tiers.disk.size),
            "disk_path": paths.DISK_TIER if tiers.disk else None,
        },
        **_common(context),
    }
    return _yaml(tree)


def gateway_config(context: Context) -> str:
    """Of the gateways."""
    spec, gateway, slo = context.spec, context.spec.gateway, context.spec.slo
    common = _common(context)
    if spec.store.bundled:
        # Workers watch nothing and so renew nothing: it is the gateways' alone.
        common["store"]["lasting_ttl_s"] = BUNDLED_LASTING_S
    tree: Tree = {
        "model": _model(context),
        "gateway": {
            # Not the pod's address: `kubectl port-forward` comes by loopback.
            "host": "0.0.0.0",
            "port": names.GATEWAY_HTTP_PORT,
            "grpc_port": names.GATEWAY_GRPC_PORT,
            "auth": gateway.auth,
            "tls_cert_file": gateway.tls and f"{paths.TLS_FOLDER}/{paths.CERT}",
            "tls_key_file": gateway.tls and f"{paths.TLS_FOLDER}/{paths.KEY}",
            "tenant_weights": ",".join(f"{each.name}={each.weight!r}" for each in spec.tenants),
            "unready_wait_s": UNREADY_WAIT_S,
            "drain_timeout_s": gateway.drain_timeout_seconds,
        },
        "router": {
            "policy": spec.routing.policy,
            "disaggregation": spec.routing.disaggregation,
            "ttft_slo_s": slo and slo.ttft_seconds,
            "tpot_slo_s": slo and slo.tpot_seconds,
        },
        **common,
    }
    return _yaml(tree)


def model_source(context: Context) -> str:
    """Hub id, embedded name, or the folder as pods see it."""
    model = context.spec.model
    return f"{paths.MODELS}{model.source}" if model.from_folder else model.source


def _model(context: Context) -> Tree:
    model = context.spec.model
    return {
        "source": model_source(context),
        "name": model.served_name,
        "revision": context.commit or model.revision,
        "dtype": model.dtype,
        "max_model_len": model.max_model_len,
    }


def _common(context: Context) -> Tree:
    return {
        "store": {"key_prefix": key_prefix(context.service.uid)},
        "tls": _tls(context),
        "log": {"level": "info", "format": "json"},
        "token_file": paths.TOKEN_FILE,
    }


def _tls(context: Context) -> Tree:
    """Between the service's pods; their certificate has the name that is tls.server_name's
    default."""
    if context.spec.security.mtls_secret is None:
        return {}
    return {
        "cert_file": f"{paths.MTLS_FOLDER}/{paths.CERT}",
        "key_file": f"{paths.MTLS_FOLDER}/{paths.KEY}",
        "ca_file": f"{paths.MTLS_FOLDER}/{paths.CA}",
    }


def _cores(pool: PoolSpec) -> int | None:
    """Whole cores that the container may use at once; None without a limit."""
    limit = pool.resources.limits.get("cpu")
    return None if limit is None else max(1, int(amount(limit)))


def _yaml(tree: Tree) -> str:
    given = {
        name: {key: value for key, value in part.items() if value is not None}
        if isinstance(part, dict)
        else part
        for name, part in tree.items()
    }
    return _dumped(json.dumps({name: part for name, part in given.items() if part}))


@lru_cache(maxsize=1024)
def _dumped(tree: str) -> str:
    """JSON as YAML. Each round of a service asks for the same again, which takes milliseconds."""
    return yaml.safe_dump(json.loads(tree), sort_keys=False)
