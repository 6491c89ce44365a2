"""The chart as a whole: it should ..."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.tools import Tools
from unit.chart.rendering import CHART, LOADER, ROOT, VALUES, Chart, Manifest, RenderFailed

pytestmark = pytest.mark.helm
MAX_BYTES = 700_000
# Helm 3 prints notes with a cluster alone: see tests/cluster/test_chart_install.py.
helm4 = pytest.mark.parametrize("chart", ["helm4"], indirect=True)


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_chart_should_pass_strict_lint(chart: Chart, values: Path) -> None:
    chart.run("lint", "--strict", str(CHART), "-f", str(values))


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_rendering_should_stay_below_what_a_release_secret_holds(
    chart: Chart, values: Path
) -> None:
    crds = sum(path.stat().st_size for path in (CHART / "crds").glob("*.yaml"))
    assert len(chart.text(values=values).encode()) + crds < MAX_BYTES


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_objects_should_carry_the_labels_and_be_in_the_namespace(
    chart: Chart, values: Path
) -> None:
    for each in chart.objects(values=values):
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "baton"
        assert labels["app.kubernetes.io/instance"] == "rel"
        assert labels["app.kubernetes.io/part-of"] == "baton"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["helm.sh/chart"] == "baton-0.1.0"
        cluster_wide = each["kind"].startswith("ClusterRole")
        assert each["metadata"].get("namespace") == (None if cluster_wide else "ns")


def test_names_should_fit_and_differ_however_long_the_release_is_called(chart: Chart) -> None:
    release = "r" * 53
    text = chart.run("template", release, str(CHART), "-n", "ns", "--set", "demo.enabled=true")
    objects = [each for each in yaml.load_all(text, Loader=LOADER) if each]
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 63 for _, name in names)


def test_documents_should_name_no_key_twice(chart: Chart) -> None:
    """Server-side apply, Helm 4's way, refuses what client-side apply let pass."""
    for values in VALUES:
        for document in yaml.compose_all(chart.text(values=values), Loader=LOADER):
            _check_keys(document)


def _check_keys(node: yaml.Node | None) -> None:
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        assert len(set(keys)) == len(keys), keys
        for _, child in node.value:
            _check_keys(child)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _check_keys(child)


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_both_majors_should_render_the_same(values: Path) -> None:
    fixed = ("operator.key.existingSecret=key", "redis.existingSecret=password")
    three, four = (Chart(Tools().path(name)) for name in ("helm3", "helm4"))
    assert _sorted(three.objects(*fixed, values=values)) == _sorted(
        four.objects(*fixed, values=values)
    )


def _sorted(objects: list[Manifest]) -> list[Manifest]:
    return sorted(objects, key=lambda each: (each["kind"], each["metadata"]["name"]))


@pytest.mark.parametrize(
    "given",
    [
        "operator.replica=2",
        "operator.replicas=two",
        "image.pullPolicy=Sometimes",
        "demo.nmae=x",
        "image.repository=",
        "redis.image.repository=",
        "redis.image.tag=",
        "redis.persistence.size=large",
        "fullnameOverride=Foo_Bar",
        "fullnameOverride=1st",
        "nameOverride=my.name",
        "operator.podLabels.x=1",
        "operator.podLabels.x=a b",
        "operator.podAnnotations.x=1",
        "operator.serviceAccount.annotations.x=true",
        "operator.nodeSelector.x=1",
        "redis.nodeSelector.x=1",
        "metrics.serviceMonitor.labels.x=1",
    ],
)
def test_misspelt_and_impossible_values_should_be_refused(chart: Chart, given: str) -> None:
    with pytest.raises(RenderFailed, match=given.partition("=")[0].rpartition(".")[2]):
        chart.text(given)


@pytest.mark.parametrize(
    "given", ["name=A,operator.extraEnv[0].value=5", "name=A,operator.extraEnv[0].values=x"]
)
def test_variables_that_a_container_cannot_have_should_be_refused(chart: Chart, given: str) -> None:
    with pytest.raises(RenderFailed, match="extraEnv"):
        chart.text(f"operator.extraEnv[0].{given}")


@pytest.mark.parametrize("release", ["my.rel", "1st"])
def test_release_whose_name_fits_no_object_should_be_told_what_to_do(
    chart: Chart, release: str
) -> None:
    with pytest.raises(RenderFailed, match="set fullnameOverride"):
        chart.text(release=release)
    assert chart.get("Service", "mine-redis", "fullnameOverride=mine", release=release)


@helm4
def test_notes_should_name_what_outlives_the_release(chart: Chart) -> None:
    _, _, without = chart.notes().partition("outlive")
    assert all(kind in without for kind in ("CRDs", "rel-baton-operator-key", "lease"))
    assert "rel-baton-redis-data" not in without
    _, _, kept = chart.notes("redis.persistence.enabled=true").partition("outlive")
    assert "rel-baton-redis-data" in kept


@helm4
def test_notes_should_say_what_comes_next(chart: Chart) -> None:
    assert "kubectl wait -n ns bms/demo --for=condition=Ready" in chart.notes()
    demo = chart.notes("demo.enabled=true")
    assert "kubectl -n ns wait bms/demo --for=condition=Ready" in demo
    assert "helm -n ns test rel" in demo
    assert "each service must name one" in chart.notes("redis.enabled=false")
    assert "no ServiceMonitor kind" in chart.notes("metrics.serviceMonitor.enabled=true")
    assert "as a cluster administrator" in chart.notes("operator.namespaced=true")


@helm4
def test_the_service_of_the_notes_should_be_a_whole_one(chart: Chart) -> None:
    _, _, rest = chart.notes().partition("<<YAML\n")
    service = yaml.safe_load(rest.partition("  YAML\n")[0])
    assert service["kind"] == "ModelService"
    assert [pool["role"] for pool in service["spec"]["pools"]] == ["prefill", "decode"]


def test_version_should_be_the_packages() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{chart["appVersion"]}"' in project


def test_schema_and_readme_should_be_what_the_values_make(tmp_path: Path) -> None:
    script = ROOT / "scripts/chart_docs.py"
    subprocess.run([sys.executable, script, CHART, tmp_path], check=True)
    for name in ("values.schema.json", "README.md"):
        assert (tmp_path / name).read_text() == (CHART / name).read_text(), "run make chart-docs"
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["additionalProperties"] is False


def test_a_value_without_a_description_should_be_an_error(tmp_path: Path) -> None:
    (tmp_path / "README.in.md").write_text("@VALUES@\n")
    (tmp_path / "values.yaml").write_text("a:\n  # -- It is described\n  b: 1\n  c: 2\n")
    script = ROOT / "scripts/chart_docs.py"
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert "line 4: a.c" in done.stderr
