"""The settings that builders write are Baton's own: its loader takes each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from baton.core import settings_loader
from baton.core.settings import Settings
from baton_operator.resources.context import Context
from baton_operator.resources.gateway import gateway_template
from baton_operator.resources.pods.baton_yaml import gateway_config, worker_config
from baton_operator.resources.pods.model_cache import fetch_job
from baton_operator.resources.pods.worker import worker_template
from fakes.model_services import COMMIT, PAIR, UID, context_of, contexts, environment, with_pool

# What pods would see, where a value comes from elsewhere.
_FOUND = {
    "BATON_STORE__URL": "redis://redis:6379/0",
    "BATON_STORE__USERNAME": "baton",
    "BATON_STORE__PASSWORD": "p@ss/word",
    "BATON_WORKER__HOST": "10.0.0.7",
}


def load(text: str, folder: Path) -> Settings:
    path = folder / "baton.yaml"
    path.write_text(text, encoding="utf-8")
    return settings_loader.load(path)


def loaded(text: str, template: dict[str, Any], folder: Path) -> Settings:
    """As the pod's process would load it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(template).items():
            if name.startswith("BATON_"):
                plain = value if isinstance(value, str) else _FOUND.get(name, "found")
                patch.setenv(name, plain)
        return load(text, folder)


@given(contexts())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_pod_starts_with_settings_that_are_all_known(
    tmp_path: Path, context: Context
) -> None:
    for pool in context.spec.pools:
        text = worker_config(context, pool)
        found = loaded(text, worker_template(context, pool, "r1"), tmp_path)
        assert found.worker.role == pool.role
        assert found.store.url != "embedded"
    found = loaded(gateway_config(context), gateway_template(context), tmp_path)
    assert found.gateway.drain_timeout_s == context.spec.gateway.drain_timeout_seconds
    if context.spec.model.needs_fetch:
        job = loaded("", fetch_job(context)["spec"]["template"], tmp_path)
        assert job.model.source == context.spec.model.source


def test_engine_settings_reach_the_worker(tmp_path: Path) -> None:
    engine = {
        "kind": "mock",
        "blockSize": 32,
        "kvMemory": "1.5Gi",
        "maxBatchTokens": 512,
        "maxSequences": 7,
        "queuePolicy": "priority",
        "numThreads": 3,
        "mockPrefillUsPerToken": 1.5,
        "mockStepMs": 2.5,
        "mockStepUsPerSequence": 3.5,
        "mockNoise": 0.25,
    }
    context = with_pool(context_of(), engine=engine, drainSeconds=33)
    found = load(worker_config(context, context.spec.pools[0]), tmp_path)
    assert found.engine.model_dump(exclude={"kv_blocks", "max_pinned_share", "deterministic"}) == {
        "kind": "mock",
        "block_size": 32,
        "kv_memory_bytes": 3 * 2**29,
        "max_batch_tokens": 512,
        "max_sequences": 7,
        "queue_policy": "priority",
        "num_threads": 3,
        "mock_prefill_us_per_token": 1.5,
        "mock_step_ms": 2.5,
        "mock_step_us_per_sequence": 3.5,
        "mock_noise": 0.25,
    }
    assert found.worker.drain_grace_s == 33
    assert (found.worker.port, found.worker.health_port) == (8082, 8081)


@pytest.mark.parametrize(("limit", "threads"), [("500m", 1), ("2", 2), ("3.9", 3), (None, None)])
def test_threads_follow_the_cpu_limit(
    limit: str | None, threads: int | None, tmp_path: Path
) -> None:
    limits = {} if limit is None else {"limits": {"cpu": limit}}
    context = with_pool(context_of(), resources=limits)
    assert load(worker_config(context, context.spec.pools[0]), tmp_path).engine.num_threads == (
        threads
    )


def test_what_the_spec_leaves_open_keeps_the_default(tmp_path: Path) -> None:
    context = context_of()
    found = load(worker_config(context, context.spec.pools[0]), tmp_path)
    plain = Settings()
    assert found.engine == plain.engine
    assert found.tiers == plain.tiers
    gateway = load(gateway_config(context), tmp_path)
    assert gateway.router == plain.router
    assert gateway.gateway.max_queue == plain.gateway.max_queue


def test_a_found_commit_takes_the_place_of_the_branch(tmp_path: Path) -> None:
    spec = {"model": {"source": "org/model", "revision": "main"}}
    for commit, expected in ((None, "main"), (COMMIT, COMMIT)):
        context = context_of(spec, commit=commit)
        for text in (gateway_config(context), worker_config(context, context.spec.pools[0])):
            model = load(text, tmp_path).model
            assert (model.source, model.name, model.revision) == ("org/model", "model", expected)


def test_a_folder_is_named_as_pods_see_it(tmp_path: Path) -> None:
    cache = {"type": "ExistingClaim", "claimName": "weights"}
    context = context_of({"model": {"source": "/llama-70b", "cache": cache}})
    model = load(gateway_config(context), tmp_path).model
    assert model.source == "/var/lib/baton/models/llama-70b"
    assert model.name == "llama-70b"


def test_routing_objectives_and_tenants_reach_the_gateway(tmp_path: Path) -> None:
    context = context_of(
        {
            "routing": {"policy": "latency", "disaggregation": "always"},
            "slo": {"ttftSeconds": 1.5, "tpotSeconds": 0.04},
            "tenants": [{"name": "gold", "weight": 3.0}, {"name": "trial", "weight": 0.5}],
            "gateway": {"auth": "keys", "drainTimeoutSeconds": 90},
        }
    )
    found = load(gateway_config(context), tmp_path)
    assert (found.router.policy, found.router.disaggregation) == ("latency", "always")
    assert (found.router.ttft_slo_s, found.router.tpot_slo_s) == (1.5, 0.04)
    assert found.gateway.tenant_weights == "gold=3.0,trial=0.5"
    assert (found.gateway.auth, found.gateway.drain_timeout_s) == ("keys", 90)
    assert found.gateway.host == "0.0.0.0"


def test_tiers_are_in_bytes(tmp_path: Path) -> None:
    context = context_of({"tiers": {"hostMemory": "2Gi", "disk": {"size": "10G"}}})
    tiers = load(worker_config(context, context.spec.pools[0]), tmp_path).tiers
    assert (tiers.host_bytes, tiers.disk_bytes) == (2 * 2**30, 10 * 10**9)
    assert tiers.disk_path == Path("/var/lib/baton/kv")


def test_gateways_and_workers_of_a_service_share_a_prefix_of_its_own(tmp_path: Path) -> None:
    context = context_of()
    prefixes = {
        load(text, tmp_path).store.key_prefix
        for text in (gateway_config(context), worker_config(context, context.spec.pools[1]))
    }
    assert prefixes == {f"baton:{UID}"}


def test_what_a_deleted_service_leaves_in_the_bundled_store_goes_after_a_week(
    tmp_path: Path,
) -> None:
    context = context_of()
    assert load(gateway_config(context), tmp_path).store.lasting_ttl_s == 7 * 86400
    own = context_of({"store": {"redis": {"url": "redis://redis.data:6379/0"}}})
    assert load(gateway_config(own), tmp_path).store.lasting_ttl_s is None
    # Who never watches has nothing to renew.
    worker = worker_config(context, context.spec.pools[0])
    assert load(worker, tmp_path).store.lasting_ttl_s is None


def test_settings_are_plain_yaml_in_a_fixed_order() -> None:
    context = context_of({"pools": PAIR})
    text = worker_config(context, context.spec.pools[0])
    assert list(yaml.safe_load(text)) == [
        *("model", "engine", "worker", "transfer", "store", "log", "token_file"),
    ]
