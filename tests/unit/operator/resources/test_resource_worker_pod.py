"""A worker's pod: who it is, where it may write, when it counts as what, what it asks for."""

from __future__ import annotations

from typing import Any

import pytest

from baton_operator import names
from baton_operator.resources.context import Context
from baton_operator.resources.pods.worker import worker_template
from fakes.model_services import UID, container, context_of, environment, mounts, with_pool


def template(context: Context) -> dict[str, Any]:
    return worker_template(context, context.spec.pools[0], "r1")


def test_a_worker_is_named_after_its_pod_and_reached_at_its_address() -> None:
    found = environment(template(context_of()))
    assert found["BATON_WORKER__WORKER_ID"]["fieldRef"]["fieldPath"] == "metadata.name"
    assert found["BATON_WORKER__HOST"]["fieldRef"]["fieldPath"] == "status.podIP"
    path = "metadata.labels['baton.dev/revision']"
    assert found["BATON_WORKER__REVISION"]["fieldRef"]["fieldPath"] == path
    assert template(context_of())["metadata"]["labels"]["baton.dev/revision"] == "r1"


def test_it_runs_the_settings_of_its_pool_and_revision() -> None:
    found = template(context_of())
    assert container(found)["command"] == [
        *("baton", "worker", "--config", "/etc/baton/prefill.yaml")
    ]
    volume, read_only = mounts(found)["/etc/baton"]
    assert (volume["configMap"]["name"], read_only) == ("demo-r1", True)


def test_every_folder_that_libraries_write_to_is_writable() -> None:
    found = template(context_of())
    where, variables = mounts(found), environment(found)
    assert container(found)["securityContext"]["readOnlyRootFilesystem"] is True
    for variable in ("HOME", "HF_HOME", "TRITON_CACHE_DIR", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        path = variables[variable]
        (volume, read_only) = next(
            each for folder, each in where.items() if f"{path}/".startswith(f"{folder}/")
        )
        assert "emptyDir" in volume and not read_only
    assert "emptyDir" in where["/tmp"][0]


def test_shared_memory_is_memory() -> None:
    assert mounts(template(context_of()))["/dev/shm"][0]["emptyDir"]["medium"] == "Memory"


def test_the_token_is_readable_by_the_pods_group_alone() -> None:
    found = template(context_of())
    volume, read_only = mounts(found)["/etc/baton-internal"]
    assert volume["secret"] == {
        "secretName": names.internal_secret("demo", UID),
        "defaultMode": 0o440,
    }
    assert read_only and found["spec"]["securityContext"]["fsGroup"] == 65532


def test_ray_asks_for_a_token() -> None:
    found = environment(template(context_of()))
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["RAY_AUTH_TOKEN_PATH"] == "/etc/baton-internal/ray-token"


def test_startup_may_take_as_long_as_the_model_says() -> None:
    model = {"source": "baton-tiny", "startTimeoutSeconds": 62}
    probe = container(template(context_of({"model": model})))["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 65
    assert probe["httpGet"] == {"path": "/startupz", "port": "health"}


def test_probes_ask_what_they_are_for() -> None:
    found = container(template(context_of()))
    assert found["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert found["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert {"name": "health", "containerPort": 8081, "protocol": "TCP"} in found["ports"]


def test_a_drain_ends_before_the_kubelet_kills() -> None:
    spec = template(with_pool(context_of(), drainSeconds=45))["spec"]
    assert spec["terminationGracePeriodSeconds"] == 60


def test_pods_have_no_access_to_the_api() -> None:
    spec = template(context_of())["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["serviceAccountName"] == "demo-worker"
    assert spec["enableServiceLinks"] is False


def test_gpus_are_asked_for_by_their_limit() -> None:
    context = with_pool(
        context_of(),
        gpus=1,
        gpuResource="nvidia.com/mig-1g.10gb",
        resources={"requests": {"cpu": "4"}, "limits": {"memory": "32Gi"}},
    )
    assert container(template(context))["resources"] == {
        "requests": {"cpu": "4"},
        "limits": {"memory": "32Gi", "nvidia.com/mig-1g.10gb": "1"},
    }


def test_devices_can_be_claimed() -> None:
    context = with_pool(
        context_of(),
        resources={"claims": [{"name": "gpu", "request": "large"}]},
        podTemplate={
            "spec": {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpus"}]}
        },
    )
    found = template(context)
    assert container(found)["resources"] == {"claims": [{"name": "gpu", "request": "large"}]}
    assert found["spec"]["resourceClaims"][0]["resourceClaimTemplateName"] == "gpus"


def test_the_tier_in_host_memory_comes_on_top_of_what_the_container_asks_for() -> None:
    resources = {"requests": {"memory": "1Gi", "cpu": "1"}, "limits": {"memory": "2Gi"}}
    context = with_pool(context_of({"tiers": {"hostMemory": "8Gi"}}), resources=resources)
    assert container(template(context))["resources"] == {
        "requests": {"memory": str(9 * 2**30), "cpu": "1"},
        "limits": {"memory": str(10 * 2**30)},
    }
    assert "resources" not in container(template(with_pool(context)))


@pytest.mark.parametrize("storage_class", [None, "fast"])
def test_the_tier_on_disk_has_a_volume_of_each_pod(storage_class: str | None) -> None:
    disk = {"size": "50Gi"} | ({"storageClassName": storage_class} if storage_class else {})
    volume, read_only = mounts(template(context_of({"tiers": {"disk": disk}})))["/var/lib/baton/kv"]
    assert not read_only
    if storage_class is None:
        assert volume["emptyDir"] == {"sizeLimit": "50Gi"}
    else:
        spec = volume["ephemeral"]["volumeClaimTemplate"]["spec"]
        assert spec["storageClassName"] == "fast"
        assert spec["resources"]["requests"]["storage"] == "50Gi"


def test_images_are_pulled_as_the_spec_says() -> None:
    spec = {"imagePullPolicy": "Never", "imagePullSecrets": ["registry"]}
    found = template(context_of(spec, image="mine:2"))
    assert (container(found)["image"], container(found)["imagePullPolicy"]) == ("mine:2", "Never")
    assert found["spec"]["imagePullSecrets"] == [{"name": "registry"}]
