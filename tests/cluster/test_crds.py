"""The CRDs on a real API server: it refuses what the typed models refuse, with the same words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kubernetes import client
from pydantic import ValidationError

from baton_operator import names
from baton_operator.types.model_service import ModelService, ModelServiceSpec
from cluster.baton_objects import Manifest, Objects, install_crds, refusal
from cluster.cluster import Cluster, CommandFailed, eventually
from suites.service_specs import (
    ACCEPTED,
    BY_RULE,
    BY_SCHEMA,
    CHANGES,
    UNKNOWN,
    Change,
    Refused,
    laid_over,
    manifest,
)


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[str]:
    """A namespace with the CRDs, for tests that leave nothing that others could see."""
    install_crds(cluster)
    with cluster.namespace() as namespace:
        yield namespace


@pytest.fixture(scope="module", autouse=True)
def autoscaled(cluster: Cluster, shared: str) -> None:
    """A pool for the last test: the controller takes its time to find a new kind's scale."""
    pools = Objects(cluster, shared, names.POOL_PLURAL)
    pools.create(pool("follows", replicas=1))
    pools.patch("follows", {"status": {"replicas": 1, "selector": "a=b"}}, subresource="status")
    target = {"apiVersion": names.API_VERSION, "kind": names.POOL_KIND, "name": "follows"}
    cluster.apply(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "follows"},
            "spec": {"scaleTargetRef": target, "minReplicas": 3, "maxReplicas": 5},
        },
        namespace=shared,
    )


@pytest.fixture
def services(cluster: Cluster, shared: str) -> Objects:
    return Objects(cluster, shared, names.SERVICE_PLURAL)


@pytest.fixture
def pools(cluster: Cluster, shared: str) -> Objects:
    return Objects(cluster, shared, names.POOL_PLURAL)


def service(name: str, namespace: str, over: Manifest | None = None) -> Manifest:
    return manifest(name, over, namespace)


def pool(name: str, **spec: Any) -> Manifest:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.POOL_KIND,
        "metadata": {"name": name},
        "spec": {"service": "demo", "pool": "decode", "role": "decode", **spec},
    }


def test_the_schemas_are_structural_and_the_names_free(cluster: Cluster, shared: str) -> None:
    for plural in (names.SERVICE_PLURAL, names.POOL_PLURAL):
        found = cluster.get("crd", f"{plural}.{names.GROUP}")
        assert found is not None
        conditions = {each["type"]: each["status"] for each in found["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}


@pytest.mark.parametrize("case", ACCEPTED.values(), ids=ACCEPTED)
def test_a_valid_service_is_accepted(services: Objects, shared: str, case: Manifest) -> None:
    services.create(service("demo", shared, case), dry_run=True)


@pytest.mark.parametrize("case", (BY_RULE | BY_SCHEMA).values(), ids=(BY_RULE | BY_SCHEMA))
def test_a_refusal_says_what_to_change(services: Objects, shared: str, case: Refused) -> None:
    with pytest.raises(client.ApiException) as error:
        services.create(service("demo", shared, case.over), dry_run=True)
    assert error.value.status == 422
    assert case.message in refusal(error.value)


@pytest.mark.parametrize("case", UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_field_is_refused_by_its_path(
    services: Objects, shared: str, case: Refused
) -> None:
    with pytest.raises(client.ApiException) as error:
        services.create(service("demo", shared, case.over), dry_run=True)
    assert f'unknown field "{case.message}"' in refusal(error.value)


@pytest.mark.parametrize("case", UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_field_never_reaches_the_operator(
    services: Objects, shared: str, case: Refused
) -> None:
    """A client that does not ask for strictness has it dropped."""
    made = services.create(service("demo", shared, case.over), dry_run=True, strict=False)
    ModelService.model_validate(made)


@pytest.mark.parametrize("name", ["8b", "a.b", "a" * 39])
def test_a_name_that_fits_no_object_is_refused(services: Objects, shared: str, name: str) -> None:
    with pytest.raises(client.ApiException) as error:
        services.create(service(name, shared), dry_run=True)
    assert "metadata.name: take at most 38" in refusal(error.value)


@pytest.mark.parametrize("case", CHANGES.values(), ids=CHANGES)
def test_a_change_that_cannot_be_is_refused(services: Objects, shared: str, case: Change) -> None:
    services.create(service("changing", shared, case.before))
    with pytest.raises(client.ApiException) as error:
        services.patch("changing", {"spec": laid_over(case.before, case.after)})
    assert case.message in refusal(error.value)


@pytest.mark.parametrize(
    ("field", "value"), [("service", "other"), ("pool", "prefill"), ("role", "prefill")]
)
def test_a_worker_pool_stays_whose_it_is(pools: Objects, field: str, value: str) -> None:
    pools.create(pool(f"keeps-{field}"))
    with pytest.raises(client.ApiException) as error:
        pools.patch(f"keeps-{field}", {"spec": {field: value}})
    assert f"spec.{field} cannot change" in refusal(error.value)


def test_defaults_are_those_of_the_models(services: Objects, shared: str) -> None:
    made = services.create(service("demo", shared), dry_run=True)
    typed = ModelService.model_validate(service("demo", shared)).spec
    assert ModelServiceSpec.model_validate(made["spec"]) == typed
    # What the server wrote down, word by word; empty lists and maps it leaves out.
    dumped = typed.model_dump(by_alias=True, exclude_none=True)
    assert _without_empty(made["spec"]) == _without_empty(dumped)


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without_empty(each) for key, each in value.items()}
        return {key: each for key, each in kept.items() if each not in ({}, [])}
    return [_without_empty(each) for each in value] if isinstance(value, list) else value


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.lists(st.sampled_from(sorted(BY_RULE | BY_SCHEMA) + sorted(ACCEPTED)), max_size=3))
def test_server_and_model_refuse_the_same(services: Objects, shared: str, cases: list[str]) -> None:
    """Several cases laid over each other: what one gives, the next may take back."""
    body = service("demo", shared)
    for case in cases:
        over = ACCEPTED[case] if case in ACCEPTED else (BY_RULE | BY_SCHEMA)[case].over
        body["spec"] = laid_over(body["spec"], over)
    said = None
    try:
        services.create(body, dry_run=True)
    except client.ApiException as error:
        said = refusal(error)
    # As the operator would get it: nulls are no values for the server.
    body["spec"] = {key: value for key, value in body["spec"].items() if value is not None}
    try:
        ModelService.model_validate(body)
    except ValidationError as error:
        assert said is not None, error
        told = [each["msg"] for each in error.errors() if each["type"] == "value_error"]
        # Some rules wait until all fields are right; the models stop at the first of each part.
        if not any(each in said for each in ("rules were not checked", "Duplicate value")):
            assert all(message.removeprefix("Value error, ") in said for message in told), said
    else:
        assert said is None


def test_a_status_is_nobodys_to_write_with_the_spec(services: Objects, shared: str) -> None:
    forged = {"phase": "Ready", "url": "http://elsewhere.example.com"}
    made = services.create({**service("forged", shared), "status": forged})
    assert "status" not in made
    assert "status" not in services.patch("forged", {"status": forged})
    # Nor the other way round.
    before = services.get("forged")["spec"]
    services.patch(
        "forged", {"spec": {"image": "other"}, "status": {"phase": "Pending"}}, subresource="status"
    )
    after = services.get("forged")
    assert after["spec"] == before and after["status"] == {"phase": "Pending"}


def test_only_a_change_of_the_spec_is_a_new_generation(services: Objects, shared: str) -> None:
    services.create(service("generations", shared))
    services.patch("generations", {"status": {"phase": "Ready"}}, subresource="status")
    assert services.get("generations")["metadata"]["generation"] == 1
    services.patch("generations", {"spec": {"rollout": {"paused": True}}})
    assert services.get("generations")["metadata"]["generation"] == 2


def test_a_status_that_says_nonsense_is_refused(services: Objects, shared: str) -> None:
    services.create(service("nonsense", shared))
    with pytest.raises(client.ApiException) as error:
        services.patch("nonsense", {"status": {"phase": "Great"}}, subresource="status")
    assert "status.phase" in refusal(error.value)


def test_two_managers_share_the_pools_of_a_service(services: Objects, shared: str) -> None:
    """Pools are told apart by name: each manager owns its fields of its pools."""
    ours = service("of-two", shared)
    services.apply(ours, "platform")
    theirs = {key: ours[key] for key in ("apiVersion", "kind", "metadata")} | {
        "spec": {"pools": [{"name": "more", "role": "decode", "replicas": 3}]}
    }
    services.apply(theirs, "team")
    found = services.apply(ours, "platform")
    assert [each["name"] for each in found["spec"]["pools"]] == ["prefill", "decode", "more"]


def test_scale_reads_and_writes_the_only_count(
    cluster: Cluster, pools: Objects, shared: str
) -> None:
    pools.create(pool("scaled", replicas=2))
    selector = names.selector_text(names.pool_selector("demo", "decode"))
    pools.patch("scaled", {"status": {"replicas": 2, "selector": selector}}, subresource="status")
    cluster.kubectl("scale", "bpool/scaled", "--replicas=5", "-n", shared)
    assert pools.get("scaled")["spec"]["replicas"] == 5
    scale = client.CustomObjectsApi(cluster.api).get_namespaced_custom_object_scale(
        names.GROUP, names.VERSION, shared, names.POOL_PLURAL, "scaled"
    )
    assert scale["spec"] == {"replicas": 5}
    assert scale["status"] == {"replicas": 2, "selector": selector}
    with pytest.raises(CommandFailed, match="replicas"):
        cluster.kubectl("scale", "bpool/scaled", "--replicas=10001", "-n", shared)


def test_a_null_is_an_absent_field(cluster: Cluster, services: Objects, shared: str) -> None:
    made = services.create(
        service("demo", shared, {"slo": None, "gateway": {"replicas": None, "tls": None}}),
        dry_run=True,
    )
    assert "slo" not in made["spec"]
    assert made["spec"]["gateway"]["replicas"] == 2 and "tls" not in made["spec"]["gateway"]


def test_pods_keep_what_the_schema_does_not_know(services: Objects, shared: str) -> None:
    spec = {"nodeSelector": {"a": "b"}, "containers": [{"name": "baton", "env": []}], "new": 1}
    made = services.create(
        service(
            "demo",
            shared,
            {"pools": [{"name": "all", "role": "any", "podTemplate": {"spec": spec}}]},
        ),
        dry_run=True,
    )
    assert made["spec"]["pools"][0]["podTemplate"]["spec"] == spec


def test_wait_and_get_tell_the_state(cluster: Cluster, services: Objects, shared: str) -> None:
    services.create(service("told", shared))
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "AllReady",
        "message": "2 of 2 workers are ready",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 1,
    }
    status = {
        "phase": "Ready",
        "workers": "2/2",
        "conditions": [condition],
        "url": "http://told-gateway:8000",
    }
    services.patch("told", {"status": status}, subresource="status")
    cluster.kubectl("wait", "bms/told", "--for=condition=Ready", "-n", shared, "--timeout=5s")
    header, row = cluster.kubectl("get", "bms", "told", "-n", shared).splitlines()
    assert header.split() == ["NAME", "READY", "PHASE", "WORKERS", "MODEL", "AGE"]
    assert row.split()[:5] == ["told", "True", "Ready", "2/2", "baton-tiny"]
    assert "http://told-gateway:8000" in cluster.kubectl(
        "get", "bms", "told", "-n", shared, "-o", "wide"
    )


def test_get_lists_all_of_baton_by_its_category(
    cluster: Cluster, services: Objects, pools: Objects, shared: str
) -> None:
    services.create(service("listed", shared))
    pools.create(pool("listed-decode"))
    printed = cluster.kubectl("get", names.CATEGORY, "-n", shared, "-o", "name")
    assert set(printed.split()) >= {
        f"modelservice.{names.GROUP}/listed",
        f"workerpool.{names.GROUP}/listed-decode",
    }


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("bms", ["One model, served by pools of workers behind gateways."]),
        ("bms.spec.pools", ["-required-", "prefill computes prompts, decode generates answers"]),
        ("bms.spec.pools.gpus", ["GPUs of each pod; unset asks for none"]),
        ("bms.spec.model.cache.type", ["ENUM: PerPod ExistingClaim NewClaim HostPath"]),
        ("bms.spec.rollout.weight", ["<integer>", "Percent of new requests for the new revision"]),
        ("bms.status.conditions", ["kubectl wait"]),
        ("bpool.spec.replicas", ["the only count"]),
    ],
)
def test_explain_reads_well(cluster: Cluster, shared: str, path: str, wanted: list[str]) -> None:
    printed = ""

    def told() -> bool:
        # The API server publishes schemas some time after the CRD is established.
        nonlocal printed
        with contextlib.suppress(CommandFailed):
            printed = " ".join(cluster.kubectl("explain", path).split())
        return all(each in printed for each in wanted)

    with contextlib.suppress(AssertionError):
        eventually(told, within_s=15, every_s=0.5)
    assert [each for each in wanted if each not in printed] == [], printed


def test_an_autoscaler_finds_the_count(pools: Objects) -> None:
    """By its least number, which needs no metrics; see `autoscaled`."""
    eventually(lambda: pools.get("follows")["spec"]["replicas"] == 3, within_s=60, every_s=0.5)
