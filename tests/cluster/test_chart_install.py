"""The chart on a real API server: it installs, upgrades, rolls back and leaves what it should.

Its pods run on kwok's nodes, which say that they are ready. What the pods' programs do is tested by
running these here with the rights that the chart gives them.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.baton_objects import install_crds
from cluster.cluster import Cluster, CommandFailed, eventually
from cluster.outside_crds import outside_crds

CHART = Path(__file__).resolve().parents[2] / "deploy/helm/baton"
CRDS = ("modelservices.baton.dev", "workerpools.baton.dev")
OPERATOR = "baton-operator"
# Both majors, each test from an install of its own.
majors = pytest.mark.parametrize("major", [3, 4], ids=["helm3", "helm4"])
WAIT = ("--wait", "--timeout", "80s")


@pytest.fixture(scope="module", autouse=True)
def nodes(cluster: Cluster) -> Iterator[None]:
    with cluster.kwok_nodes(1):
        yield


@pytest.fixture
def restricted(cluster: Cluster) -> Iterator[str]:
    """A namespace that admits restricted pods alone."""
    with cluster.namespace({"pod-security.kubernetes.io/enforce": "restricted"}) as name:
        yield name
        # What is cluster-wide would outlive it.
        for major in (3, 4):
            for release in json.loads(cluster.helm("list", "-n", name, "-o", "json", major=major)):
                cluster.helm("uninstall", release["name"], "-n", name, major=major)


def _set(*values: str) -> list[str]:
    return [option for value in values for option in ("--set", value)]


def _install(cluster: Cluster, namespace: str, major: int, *values: str) -> str:
    return cluster.helm(
        "install", "baton", str(CHART), "-n", namespace, *WAIT, *_set(*values), major=major
    )


def _upgrade(cluster: Cluster, namespace: str, major: int, *values: str) -> str:
    return cluster.helm(
        "upgrade", "baton", str(CHART), "-n", namespace, *WAIT, *_set(*values), major=major
    )


def _secret(cluster: Cluster, namespace: str, name: str, key: str) -> str:
    found = cluster.get("secret", name, namespace)
    assert found
    return base64.b64decode(found["data"][key]).decode()


def _log_level(cluster: Cluster, namespace: str) -> str:
    deployment = cluster.get("deployment", OPERATOR, namespace)
    assert deployment
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return next(e["value"] for e in container["env"] if e["name"] == "BATON_OPERATOR_LOG_LEVEL")


@majors
def test_install_makes_ready_pods_in_a_restricted_namespace(
    cluster: Cluster, restricted: str, major: int
) -> None:
    said = _install(cluster, restricted, major, "demo.enabled=true", "operator.replicas=2")
    assert "wait bms/demo --for=condition=Ready" in said
    deployment = cluster.get("deployment", OPERATOR, restricted)
    assert deployment and deployment["status"]["readyReplicas"] == 2
    redis = cluster.get("statefulset", "baton-redis", restricted)
    assert redis and redis["status"]["readyReplicas"] == 1
    demo = cluster.get("modelservice", "demo", restricted)
    assert demo and demo["spec"]["model"]["source"] == "baton-tiny"
    for name in CRDS:
        assert cluster.get("crd", name)


@majors
def test_upgrade_keeps_key_and_password_and_rollback_brings_settings_back(
    cluster: Cluster, restricted: str, major: int
) -> None:
    _install(cluster, restricted, major)
    key = _secret(cluster, restricted, f"{OPERATOR}-key", "key")
    password = _secret(cluster, restricted, "baton-redis", "password")

    _upgrade(cluster, restricted, major, "operator.logLevel=debug", "demo.enabled=true")
    assert _log_level(cluster, restricted) == "debug"
    assert cluster.get("modelservice", "demo", restricted)
    # The hook took its Job and its rights away again.
    for kind, name in (
        *(("job", "baton-crds"), ("configmap", "baton-crds"), ("serviceaccount", "baton-crds")),
        *(("clusterrole", f"{restricted}:baton-crds"),),
    ):
        assert cluster.get(kind, name, restricted) is None

    cluster.helm("rollback", "baton", "1", "-n", restricted, *WAIT, major=major)
    assert _log_level(cluster, restricted) == "info"
    assert cluster.get("modelservice", "demo", restricted) is None
    assert _secret(cluster, restricted, f"{OPERATOR}-key", "key") == key
    assert _secret(cluster, restricted, "baton-redis", "password") == password


@majors
def test_upgrade_that_cannot_apply_the_crds_changes_nothing(
    cluster: Cluster, restricted: str, major: int
) -> None:
    _install(cluster, restricted, major)
    # No node takes the Job's pod, as when its image cannot be pulled.
    impossible = ("operator.nodeSelector.no=where", "operator.logLevel=debug")
    with pytest.raises(CommandFailed, match=r"pre-upgrade|hook"):
        cluster.helm(
            *("upgrade", "baton", str(CHART), "-n", restricted, "--timeout", "5s"),
            *_set(*impossible),
            major=major,
        )
    assert _log_level(cluster, restricted) == "info"
    # The next one clears up and works.
    _upgrade(cluster, restricted, major, "operator.logLevel=warning")
    assert _log_level(cluster, restricted) == "warning"


@majors
def test_uninstall_keeps_crds_services_and_key_and_a_second_install_goes_on_with_it(
    cluster: Cluster, restricted: str, major: int
) -> None:
    _install(cluster, restricted, major, "demo.enabled=true")
    key = _secret(cluster, restricted, f"{OPERATOR}-key", "key")
    service = cluster.get("modelservice", "demo", restricted)
    assert service
    mine = {
        "apiVersion": service["apiVersion"],
        "kind": service["kind"],
        "metadata": {"name": "mine"},
        "spec": service["spec"],
    }
    cluster.apply(mine, namespace=restricted)

    cluster.helm("uninstall", "baton", "-n", restricted, "--wait", major=major)
    assert cluster.get("deployment", OPERATOR, restricted) is None
    assert cluster.get("clusterrole", f"{restricted}:{OPERATOR}") is None
    for name in CRDS:
        assert cluster.get("crd", name)
    assert cluster.get("modelservice", "mine", restricted)
    assert cluster.get("modelservice", "demo", restricted) is None

    _install(cluster, restricted, major)
    assert _secret(cluster, restricted, f"{OPERATOR}-key", "key") == key


@majors
def test_second_release_that_would_serve_the_same_is_refused_and_the_first_goes_on(
    cluster: Cluster, restricted: str, major: int
) -> None:
    chart = str(CHART)
    with cluster.namespace() as elsewhere:
        _install(cluster, restricted, major)
        for second in (("baton", "-n", elsewhere), ("other", "-n", restricted)):
            with pytest.raises(CommandFailed, match=f'"baton" in namespace "{restricted}"'):
                cluster.helm("install", second[0], chart, *second[1:], major=major)
        assert cluster.get_all("deployment", elsewhere) == []
        # Neither an upgrade nor what is rendered without the cluster.
        _upgrade(cluster, restricted, major, "operator.logLevel=debug")
        assert cluster.helm("template", "baton", chart, "-n", elsewhere, major=major)


def test_release_for_one_namespace_is_refused_where_another_serves_it(
    cluster: Cluster, restricted: str
) -> None:
    own = ("--set", "operator.namespaced=true")
    with cluster.namespace() as elsewhere:
        _install(cluster, restricted, 4, "operator.namespaced=true")
        # Its own upgrade is not.
        _upgrade(cluster, restricted, 4, "operator.namespaced=true")
        with pytest.raises(CommandFailed, match=f"serves namespace {restricted} already"):
            cluster.helm("install", "other", str(CHART), "-n", restricted, *own)
        with pytest.raises(CommandFailed, match=f"serves namespace {restricted} already"):
            cluster.helm("install", "other", str(CHART), "-n", elsewhere)
        # Beside each other they may be.
        cluster.helm("install", "other", str(CHART), "-n", elsewhere, *own)
        cluster.helm("uninstall", "other", "-n", elsewhere)


@majors
def test_persistence_is_switched_by_upgrades_and_the_claim_outlives_the_release(
    cluster: Cluster, restricted: str, major: int
) -> None:
    claim, of_class = "baton-redis-data", "redis.persistence.storageClassName"
    persistent = ("redis.persistence.enabled=true", f"{of_class}={restricted}")
    with _volume(cluster, restricted):
        _install(cluster, restricted, major)
        _upgrade(cluster, restricted, major, *persistent)
        assert _data_volume(cluster, restricted)["persistentVolumeClaim"] == {"claimName": claim}
        # It stays with its class, and says so before anything is changed.
        _upgrade(cluster, restricted, major, persistent[0])
        with pytest.raises(CommandFailed, match=f'{claim} has the class "{restricted}"'):
            _upgrade(cluster, restricted, major, persistent[0], f"{of_class}=x")
        _upgrade(cluster, restricted, major, "redis.persistence.enabled=false")
        assert "emptyDir" in _data_volume(cluster, restricted)
        assert cluster.get("pvc", claim, restricted)
        _upgrade(cluster, restricted, major, *persistent)
        cluster.helm("uninstall", "baton", "-n", restricted, "--wait", major=major)
        assert cluster.get("pvc", claim, restricted)
        _install(cluster, restricted, major, *persistent)


def _data_volume(cluster: Cluster, namespace: str) -> dict[str, Any]:
    redis = cluster.get("statefulset", "baton-redis", namespace)
    assert redis
    volumes = redis["spec"]["template"]["spec"]["volumes"]
    (data,) = (volume for volume in volumes if volume["name"] == "data")
    return dict(data)


@contextmanager
def _volume(cluster: Cluster, name: str) -> Iterator[None]:
    """A volume for the one claim of the class `name`."""
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "capacity": {"storage": "1Gi"},
                "hostPath": {"path": "/nowhere"},
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": name,
            },
        }
    )
    try:
        yield
    finally:
        cluster.kubectl("delete", "pv", name, "--wait=false")


@majors
def test_helm_test_waits_for_the_chat_pod(cluster: Cluster, restricted: str, major: int) -> None:
    """That it succeeds is said here, since nothing runs it; what it runs is a unit test."""
    _install(cluster, restricted, major, "demo.enabled=true")
    command = ("test", "baton", "-n", restricted, "--timeout", "60s")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(cluster.helm, *command, major=major)
        eventually(lambda: _phase(cluster, restricted) == "Running")
        succeeded = json.dumps({"status": {"phase": "Succeeded"}})
        pod = ("pod", "baton-test-chat", "-n", restricted)
        cluster.kubectl("patch", *pod, "--subresource=status", "--type=merge", "-p", succeeded)
        assert "Succeeded" in running.result()
    # It stays until the next test, so that Helm can read its logs.
    assert _phase(cluster, restricted) == "Succeeded"


def _phase(cluster: Cluster, namespace: str) -> str | None:
    pod = cluster.get("pod", "baton-test-chat", namespace)
    return pod["status"].get("phase") if pod else None


@pytest.mark.parametrize("values", sorted((CHART / "ci").glob("*.yaml")), ids=lambda p: p.stem)
def test_api_server_takes_every_object_of_every_set_of_values(
    cluster: Cluster, restricted: str, values: Path
) -> None:
    """Both majors render the same; that is a unit test."""
    install_crds(cluster)
    rendered = cluster.helm("template", "baton", str(CHART), "-n", restricted, "-f", str(values))
    objects = [each for each in yaml.safe_load_all(rendered) if each]
    strict = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-n", restricted)
    monitored = any(each["kind"] == "ServiceMonitor" for each in objects)
    with outside_crds(cluster, *(["prometheus-operator"] if monitored else [])):
        said = cluster.kubectl(*strict, "-f", "-", stdin=yaml.safe_dump_all(objects))
    assert len(said.splitlines()) == len(objects)


def test_hook_may_apply_the_crds_and_nothing_else(cluster: Cluster, restricted: str) -> None:
    """The Job's program, with the rights that the chart gives the Job."""
    install_crds(cluster)
    rights = cluster.helm(
        *("template", "baton", str(CHART), "-n", restricted),
        *("-s", "templates/crds/upgrade-rbac.yaml"),
        major=3,
    )
    cluster.kubectl("apply", "-n", restricted, "-f", "-", stdin=rights)
    try:
        account = cluster.as_service_account(restricted, "baton-crds")
        eventually(lambda: _may(account, "patch", f"customresourcedefinitions/{CRDS[0]}"))
        columns = [{"op": "remove", "path": "/spec/versions/0/additionalPrinterColumns"}]
        cluster.kubectl("patch", "crd", CRDS[0], "--type=json", "-p", json.dumps(columns))
        done = subprocess.run(
            [sys.executable, "-m", "baton_operator.crds.apply", str(CHART / "crds")],
            env={**os.environ, "KUBECONFIG": str(account.kubeconfig)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        crd = cluster.get("crd", CRDS[0])
        assert crd and crd["spec"]["versions"][0]["additionalPrinterColumns"]
        assert all(name in done.stderr for name in CRDS)
        for verb, what in (
            ("delete", f"customresourcedefinitions/{CRDS[0]}"),
            ("patch", "customresourcedefinitions/others.example.com"),
            ("list", "customresourcedefinitions"),
            ("get", "secrets"),
        ):
            assert not _may(account, verb, what)
    finally:
        cluster.kubectl("delete", "-n", restricted, "-f", "-", stdin=rights)


def _may(account: Cluster, verb: str, what: str) -> bool:
    try:
        return account.kubectl("auth", "can-i", verb, what, "--all-namespaces").strip() == "yes"
    except CommandFailed:
        return False


def test_operator_may_write_secrets_and_never_read_them(cluster: Cluster, restricted: str) -> None:
    _install(cluster, restricted, 4)
    operator = cluster.as_service_account(restricted, OPERATOR)
    assert _may(operator, "create", "secrets")
    assert _may(operator, "patch", "secrets")
    for verb in ("get", "list", "watch", "delete", "update"):
        assert not _may(operator, verb, "secrets")


def test_one_namespace_gets_an_operator_without_any_cluster_wide_object(
    cluster: Cluster, restricted: str
) -> None:
    _install(cluster, restricted, 4, "operator.namespaced=true")
    for kind in ("clusterrole", "clusterrolebinding"):
        names = [each["metadata"]["name"] for each in cluster.get_all(kind)]
        assert not [name for name in names if restricted in name]
    operator = cluster.as_service_account(restricted, OPERATOR)
    can = operator.kubectl("auth", "can-i", "create", "deployments.apps", "-n", restricted)
    assert can.strip() == "yes"
    assert not _may(operator, "list", "modelservices.baton.dev")


def test_installed_operator_makes_the_demo_ready(cluster: Cluster, restricted: str) -> None:
    """With the settings and rights that the chart gives its pod, in a process of this machine."""
    _install(cluster, restricted, 4, "demo.enabled=true")
    account = cluster.as_service_account(restricted, OPERATOR)
    env = {
        **os.environ,
        **_environment(cluster, restricted),
        "KUBECONFIG": str(account.kubeconfig),
        "BATON_OPERATOR_METRICS_PORT": "0",
        "BATON_OPERATOR_HEALTH_PORT": "0",
    }
    process = f"operator-{restricted}"
    cluster.processes.start(process, [sys.executable, "-m", "baton_operator"], env=env)
    try:
        # What the notes tell to do.
        wait = ("wait", "bms/demo", "-n", restricted, "--for=condition=Ready", "--timeout=90s")
        assert "condition met" in cluster.kubectl(*wait)
        demo = cluster.get("modelservice", "demo", restricted)
        assert demo and demo["status"]["url"]
        # Where `helm test` sends its chat.
        assert cluster.get("service", "demo-gateway", restricted)
        lease = cluster.get("lease", OPERATOR, restricted)
        assert lease and lease["spec"]["holderIdentity"]
        assert _refused(cluster, f"system:serviceaccount:{restricted}:{OPERATOR}") == set()
    finally:
        cluster.processes.stop(process)


def _refused(cluster: Cluster, user: str) -> set[tuple[str, str]]:
    """Verb and resource of what the API server let nobody of that name do."""
    if cluster.audit_log is None:
        return set()
    records = map(json.loads, cluster.audit_log.read_text().splitlines())
    return {
        (each["verb"], each["objectRef"]["resource"])
        for each in records
        if each["user"]["username"] == user and each["responseStatus"]["code"] == 403
    }


def _environment(cluster: Cluster, namespace: str) -> dict[str, str]:
    """Of the operator's container, with what it takes from elsewhere filled in."""
    deployment = cluster.get("deployment", OPERATOR, namespace)
    assert deployment
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    found = {}
    for each in container["env"]:
        source = each.get("valueFrom", {})
        if "secretKeyRef" in source:
            reference = source["secretKeyRef"]
            found[each["name"]] = _secret(cluster, namespace, reference["name"], reference["key"])
        elif "fieldRef" in source:
            fields = {"metadata.name": f"{OPERATOR}-0", "metadata.namespace": namespace}
            found[each["name"]] = fields[source["fieldRef"]["fieldPath"]]
        else:
            value = each["value"]
            for name, text in found.items():
                value = value.replace(f"$({name})", text)
            found[each["name"]] = value
    return found
