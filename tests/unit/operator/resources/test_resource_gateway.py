"""The gateways' Deployment: rolled without a gap, stopped without a broken stream."""

from __future__ import annotations

from typing import Any

from baton_operator.resources.context import Context
from baton_operator.resources.gateway import gateway_config_map, gateway_deployment
from fakes.model_services import container, context_of, environment, mounts


def template(context: Context) -> dict[str, Any]:
    found: dict[str, Any] = gateway_deployment(context)["spec"]["template"]
    return found


def gateway(**spec: Any) -> Context:
    return context_of({"gateway": spec})


def test_a_gateway_is_replaced_before_it_goes() -> None:
    assert gateway_deployment(context_of())["spec"]["strategy"]["rollingUpdate"] == {
        "maxSurge": 1,
        "maxUnavailable": 0,
    }


def test_streams_have_their_time_before_the_kubelet_kills() -> None:
    found = template(gateway(drainTimeoutSeconds=100))["spec"]
    assert found["terminationGracePeriodSeconds"] == 5 + 100 + 10
    assert "lifecycle" not in found["containers"][0]


def test_only_what_a_gateway_reads_of_the_spec_rolls_it() -> None:
    key = "baton.dev/settings-hash"
    plain = template(context_of())["metadata"]["annotations"][key]
    routed = context_of({"routing": {"policy": "random"}})
    assert template(routed)["metadata"]["annotations"][key] != plain
    assert template(gateway(replicas=7))["metadata"]["annotations"][key] == plain


def test_it_runs_the_settings_of_the_config_map() -> None:
    found = template(context_of())
    assert container(found)["command"] == [
        *("baton", "gateway", "--config", "/etc/baton/baton.yaml")
    ]
    volume, _ = mounts(found)["/etc/baton"]
    config_map = gateway_config_map(context_of())
    assert volume["configMap"]["name"] == config_map["metadata"]["name"] == "demo-gateway"
    assert list(config_map["data"]) == ["baton.yaml"]


def test_the_count_is_the_autoscalers_where_there_is_one() -> None:
    assert gateway_deployment(gateway(replicas=3))["spec"]["replicas"] == 3
    scaled = gateway(replicas=3, autoscaling={"maxReplicas": 9})
    assert "replicas" not in gateway_deployment(scaled)["spec"]


def test_readiness_and_liveness_are_different_questions() -> None:
    found = container(template(context_of()))
    assert found["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "http"}
    assert found["livenessProbe"]["httpGet"] == {"path": "/health", "port": "http"}


def test_resources_have_a_default_that_an_autoscaler_can_go_by() -> None:
    assert container(template(context_of()))["resources"]["requests"].keys() == {"cpu", "memory"}
    own = {"requests": {"cpu": "2"}, "limits": {"memory": "2Gi"}}
    assert container(template(gateway(resources=own)))["resources"] == own


def test_gateways_spread_over_nodes_if_they_can() -> None:
    (spread,) = template(context_of())["spec"]["topologySpreadConstraints"]
    assert spread["whenUnsatisfiable"] == "ScheduleAnyway"
    labels = template(context_of())["metadata"]["labels"]
    assert spread["labelSelector"]["matchLabels"].items() <= labels.items()


def test_certificates_are_mounted_from_the_users_secrets() -> None:
    context = context_of(
        {"gateway": {"tls": {"secretName": "cert"}}, "security": {"mtlsSecret": "pki"}}
    )
    where = mounts(template(context))
    assert where["/etc/baton-tls"][0]["secret"]["secretName"] == "cert"
    assert where["/etc/baton-mtls"][0]["secret"]["secretName"] == "pki"
    assert not {"/etc/baton-tls", "/etc/baton-mtls"} & mounts(template(context_of())).keys()


def test_a_gateway_has_the_models_tokenizer_from_where_workers_have_it() -> None:
    cache = {"type": "ExistingClaim", "claimName": "weights"}
    found = template(context_of({"model": {"source": "org/model", "cache": cache}}))
    volume, read_only = mounts(found)["/var/lib/baton/models"]
    assert volume["persistentVolumeClaim"]["claimName"] == "weights" and read_only
    assert environment(found)["HF_HUB_OFFLINE"] == "1"
