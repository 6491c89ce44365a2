"""templates/crds/ and crds/: it should ..."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from baton.core.errors import ConfigError
from baton_operator.crds import apply as apply_crds
from unit.chart.rendering import CHART, Chart

pytestmark = pytest.mark.helm
NAME = "rel-baton-crds"
KINDS = ["ConfigMap", "Job", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"]


def _name(kind: str) -> str:
    return f"ns:{NAME}" if kind.startswith("Cluster") else NAME


def test_upgrade_should_apply_exactly_the_charts_crds(chart: Chart, tmp_path: Path) -> None:
    files = chart.get("ConfigMap", NAME)["data"]
    assert files.keys() == {path.name for path in (CHART / "crds").glob("*.yaml")}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    ours = apply_crds.read(CHART / "crds")
    assert apply_crds.read(tmp_path) == ours
    role = chart.get("ClusterRole", f"ns:{NAME}")
    (rule,) = role["rules"]
    assert sorted(rule["resourceNames"]) == sorted(crd["metadata"]["name"] for crd in ours)
    assert rule["verbs"] == ["create", "patch"]


def test_upgrade_should_happen_before_anything_else_of_it(chart: Chart) -> None:
    weights = {}
    for kind in KINDS:
        annotations = chart.get(kind, _name(kind))["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-upgrade"
        policies = annotations["helm.sh/hook-delete-policy"].split(",")
        assert sorted(policies) == ["before-hook-creation", "hook-succeeded"]
        weights[kind] = int(annotations["helm.sh/hook-weight"])
    # The Job needs the others.
    assert weights.pop("Job") > max(weights.values())


def test_upgrade_job_should_run_the_module_that_is_there(chart: Chart) -> None:
    spec = chart.get("Job", NAME)["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert container["command"] == ["python", "-m", apply_crds.__spec__.name, "/crds"]
    assert container["volumeMounts"][0]["mountPath"] == "/crds"
    assert spec["volumes"][0]["configMap"]["name"] == NAME


@pytest.mark.parametrize("off", ["crds.upgrade=false", "operator.namespaced=true"])
def test_upgrade_should_be_left_to_the_administrator_when_off(chart: Chart, off: str) -> None:
    for kind in KINDS:
        assert chart.find(kind, _name(kind), off) is None


def test_crds_should_be_plain_files_that_helm_never_deletes() -> None:
    for path in (CHART / "crds").glob("*.yaml"):
        text = path.read_text()
        # Helm does not render this folder.
        assert not re.search(r"\{\{", text)
        assert yaml.safe_load(text)["kind"] == "CustomResourceDefinition"


@pytest.mark.parametrize(
    ("text", "said"), [("", "no CRDs"), ("kind: Pod", "found Pod"), ("- 1", "found list")]
)
def test_applying_should_refuse_what_is_no_crd(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "some.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        apply_crds.read(tmp_path)
