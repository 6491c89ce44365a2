"""All pods of the chart: they should ..."""

from __future__ import annotations

from pathlib import Path

import pytest

from unit.chart.rendering import VALUES, Chart, pod_specs

pytestmark = pytest.mark.helm


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_pods_should_be_restricted(chart: Chart, values: Path) -> None:
    """Pod Security's profile of that name, a read-only root and limits of memory."""
    specs = pod_specs(chart.objects(values=values))
    assert specs
    for spec in specs.values():
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
        assert not any("hostPath" in volume for volume in spec.get("volumes", []))
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["runAsUser"] > 10_000
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_pods_that_talk_to_the_api_server_alone_should_have_a_token(
    chart: Chart, values: Path
) -> None:
    specs = pod_specs(chart.objects(values=values))
    with_token = {name for name, spec in specs.items() if spec["automountServiceAccountToken"]}
    assert with_token - {"Job/rel-baton-crds"} == {"Deployment/rel-baton-operator"}


def test_pods_should_pull_with_the_users_secrets(chart: Chart) -> None:
    specs = pod_specs(chart.objects("demo.enabled=true", "image.pullSecrets[0].name=regcred"))
    assert len(specs) == 4
    for spec in specs.values():
        assert spec["imagePullSecrets"] == [{"name": "regcred"}]


def test_pods_should_bring_no_pull_secrets_where_there_are_none(chart: Chart) -> None:
    for spec in pod_specs(chart.objects("demo.enabled=true")).values():
        assert "imagePullSecrets" not in spec
