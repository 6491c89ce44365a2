"""templates/operator/deployment.yaml: it should ..."""

from __future__ import annotations

import pytest

from baton_operator import settings
from unit.chart.rendering import CHART, Chart, RenderFailed, environment

pytestmark = pytest.mark.helm
NAME = "rel-baton-operator"


def test_operator_should_get_only_settings_that_it_knows(
    chart: Chart, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = CHART / "ci/everything-values.yaml"
    deployment = chart.get("Deployment", NAME, values=values)
    variables = environment(deployment["spec"]["template"]["spec"]["containers"][0])
    texts = {
        "BATON_OPERATOR_KEY": "k" * 48,
        "BATON_OPERATOR_IDENTITY": "rel-baton-operator-x",
        "BATON_OPERATOR_OWN_NAMESPACE": "ns",
        **{name: value for name, value in variables.items() if isinstance(value, str)},
    }
    assert texts.keys() | {"REDIS_PASSWORD"} == variables.keys()
    for name, value in texts.items():
        monkeypatch.setenv(name, value)
    loaded = settings.load()
    assert loaded.image == "registry.example.com/baton-cuda:0.1.0"
    assert loaded.namespace is None
    assert loaded.lease_name == NAME
    assert loaded.log_level == "debug"
    assert loaded.concurrency == 8
    assert loaded.monitors is True
    assert loaded.redis_url is not None
    assert loaded.redis_url.get_secret_value() == (
        "redis://operator:$(REDIS_PASSWORD)@rel-baton-redis.ns.svc:6379/0"
    )


def test_operator_should_read_key_and_password_from_their_secrets(chart: Chart) -> None:
    deployment = chart.get("Deployment", NAME)
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    variables = environment(container)
    assert variables["BATON_OPERATOR_KEY"]["secretKeyRef"] == {"name": f"{NAME}-key", "key": "key"}
    assert variables["REDIS_PASSWORD"]["secretKeyRef"] == {
        "name": "rel-baton-redis",
        "key": "password",
    }
    # Kubernetes expands $(NAME) of variables above only.
    names = list(variables)
    assert names.index("REDIS_PASSWORD") < names.index("BATON_OPERATOR_REDIS_URL")


def test_operator_should_serve_one_namespace_when_told(chart: Chart) -> None:
    deployment = chart.get("Deployment", NAME, "operator.namespaced=true")
    variables = environment(deployment["spec"]["template"]["spec"]["containers"][0])
    assert variables["BATON_OPERATOR_NAMESPACE"] == "ns"


def test_operator_should_know_no_redis_where_none_is_bundled(chart: Chart) -> None:
    deployment = chart.get("Deployment", NAME, "redis.enabled=false")
    variables = environment(deployment["spec"]["template"]["spec"]["containers"][0])
    assert not any("REDIS" in name for name in variables)


def test_operator_should_be_found_by_its_own_selector(chart: Chart) -> None:
    values = CHART / "ci/everything-values.yaml"
    spec = chart.get("Deployment", NAME, values=values)["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert labels["example.com/team"] == "platform"


def test_operator_should_be_probed_where_it_answers(chart: Chart) -> None:
    container = chart.get("Deployment", NAME)["spec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"metrics": 8080, "health": 8081}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == "health"


def test_operator_should_be_replaced_without_a_gap(chart: Chart) -> None:
    spec = chart.get("Deployment", NAME, "operator.replicas=2")["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_operator_should_take_the_image_by_digest_where_there_is_one(chart: Chart) -> None:
    digest = "sha256:" + "0" * 64
    for sets, wanted in (
        ((), "baton:0.1.0"),
        (("image.tag=x",), "baton:x"),
        (("image.tag=x", f"image.digest={digest}"), f"baton@{digest}"),
    ):
        spec = chart.get("Deployment", NAME, *sets)["spec"]["template"]["spec"]
        assert spec["containers"][0]["image"] == wanted


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("demo.enabled=true", "redis.enabled=false"), "demo.enabled needs redis.enabled"),
        (("demo.enabled=true", "operator.replicas=0"), "demo.enabled needs operator.replicas"),
        (("operator.serviceAccount.create=false",), "needs operator.serviceAccount.name"),
    ],
)
def test_what_cannot_work_together_should_be_refused(
    chart: Chart, given: tuple[str, ...], said: str
) -> None:
    with pytest.raises(RenderFailed, match=said):
        chart.text(*given)
