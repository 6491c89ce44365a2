"""templates/operator/key-secret.yaml: it should ..."""

from __future__ import annotations

import base64

import pytest

from unit.chart.rendering import Chart

pytestmark = pytest.mark.helm
NAME = "rel-baton-operator-key"


def test_key_should_be_long_and_random_and_outlive_the_release(chart: Chart) -> None:
    secret = chart.get("Secret", NAME)
    key = base64.b64decode(secret["data"]["key"]).decode()
    assert len(key) == 48
    assert key.isalnum()
    assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    # Another rendering, not the cached one.
    assert chart.get("Secret", NAME, "operator.replicas=2")["data"]["key"] != secret["data"]["key"]


def test_key_of_the_users_should_be_taken_instead(chart: Chart) -> None:
    sets = ("operator.key.existingSecret=mine",)
    assert chart.find("Secret", NAME, *sets) is None
    deployment = chart.get("Deployment", "rel-baton-operator", *sets)
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["env"][0]["valueFrom"]["secretKeyRef"]["name"] == "mine"
