"""templates/redis/: it should ..."""

from __future__ import annotations

import base64
import subprocess
import time
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from baton_operator import names
from fakes.free_port import free_port
from unit.chart.rendering import CHART, Chart

pytestmark = pytest.mark.helm
NAME = "rel-baton-redis"
CLAIM = f"{NAME}-data"
KINDS = ["StatefulSet", "Service", "ConfigMap", "Secret", "NetworkPolicy"]


def test_redis_should_be_left_out_when_off(chart: Chart) -> None:
    for kind in KINDS:
        assert chart.find(kind, NAME)
        assert chart.find(kind, NAME, "redis.enabled=false") is None


def test_redis_should_have_one_replica_that_its_service_finds(chart: Chart) -> None:
    spec = chart.get("StatefulSet", NAME)["spec"]
    assert spec["replicas"] == 1
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert chart.get("Service", NAME)["spec"]["selector"].items() <= labels.items()


def test_redis_should_let_in_operator_gateways_and_workers_alone(chart: Chart) -> None:
    spec = chart.get("NetworkPolicy", NAME)["spec"]
    assert spec["egress"] == []
    operator, services = spec["ingress"][0]["from"]
    deployment = chart.get("Deployment", "rel-baton-operator")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert operator["podSelector"]["matchLabels"].items() <= labels.items()
    assert services["namespaceSelector"] == {}
    for component in ("gateway", "worker"):
        found = names.labels("any", component)  # type: ignore[arg-type]
        assert services["podSelector"]["matchLabels"].items() <= found.items()
        assert component in services["podSelector"]["matchExpressions"][0]["values"]


def test_redis_should_keep_its_data_on_a_claim_when_told(chart: Chart) -> None:
    volumes = chart.get("StatefulSet", NAME)["spec"]["template"]["spec"]["volumes"]
    assert {"name": "data", "emptyDir": {}} in volumes
    assert chart.find("PersistentVolumeClaim", CLAIM) is None
    values = CHART / "ci/everything-values.yaml"
    claim = chart.get("PersistentVolumeClaim", CLAIM, values=values)
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"
    # The API keys of services that stay are in it.
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    volumes = chart.get("StatefulSet", NAME, values=values)["spec"]["template"]["spec"]["volumes"]
    assert {"name": "data", "persistentVolumeClaim": {"claimName": CLAIM}} in volumes


def test_persistence_should_change_only_what_may_change_in_a_stateful_set(chart: Chart) -> None:
    given = ("redis.persistence.size=2Gi", "redis.persistence.storageClassName=slow")
    without, with_claim = (
        chart.get("StatefulSet", NAME, f"redis.persistence.enabled={on}", *given)["spec"]
        for on in ("false", "true")
    )
    changed = {key for key in without | with_claim if without.get(key) != with_claim.get(key)}
    assert changed == {"template"}


def test_redis_password_should_be_the_users_when_there_is_one(chart: Chart) -> None:
    password = base64.b64decode(chart.get("Secret", NAME)["data"]["password"]).decode()
    # It is written into a URL.
    assert len(password) == 32
    assert password.isalnum()
    sets = ("redis.existingSecret=mine",)
    assert chart.find("Secret", NAME, *sets) is None
    spec = chart.get("StatefulSet", NAME, *sets)["spec"]["template"]["spec"]
    assert spec["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"]["name"] == "mine"


def test_redis_should_start_again_when_its_settings_change(chart: Chart) -> None:
    sums = {
        chart.get("StatefulSet", NAME, *sets)["spec"]["template"]["metadata"]["annotations"][
            "checksum/config"
        ]
        for sets in ((), ("redis.maxMemory=1gb",))
    }
    assert len(sums) == 2


@pytest.mark.redis
def test_redis_should_keep_users_and_data_over_a_restart_and_refuse_strangers(
    chart: Chart, tmp_path: Path
) -> None:
    """What the container would run, with its two folders elsewhere."""
    data, config = tmp_path / "data", tmp_path / "config"
    data.mkdir()
    config.mkdir()
    port = free_port()
    for name, text in chart.get("ConfigMap", NAME)["data"].items():
        moved = text.replace("/data", str(data)).replace("/etc/redis", str(config))
        (config / name).write_text(moved.replace("port 6379", f"bind 127.0.0.1\nport {port}"))

    def start(password: str) -> subprocess.Popen[bytes]:
        environ = {"REDIS_PASSWORD": password, "PATH": "/usr/local/bin:/usr/bin:/bin"}
        with (tmp_path / "log").open("ab") as log:
            return subprocess.Popen(
                ["sh", config / "start.sh"], env=environ, stdout=log, stderr=log
            )

    process = start("first")
    try:
        _wait_until_up(port)
        with _user(port, "operator", "first") as operator:
            policy = operator.config_get("maxmemory-policy")
            assert policy == {"maxmemory-policy": "noeviction"}
            assert operator.config_get("appendonly") == {"appendonly": "yes"}
            operator.execute_command(
                "ACL", "SETUSER", "svc-1", "on", ">secret", "~svc-1:*", "-@all", "+@read", "+@write"
            )
            operator.execute_command("ACL", "SAVE")
            operator.set("svc-1:a", "1")
        process.terminate()
        process.wait(30)

        process = start("second")
        _wait_until_up(port)
        with _user(port, "svc-1", "secret") as service:
            assert service.get("svc-1:a") == b"1"
            with pytest.raises(redis.exceptions.NoPermissionError):
                service.get("svc-2:a")
        with _user(port, "operator", "second") as operator:
            assert operator.get("svc-1:a") == b"1"
        with _user(port, "operator", "first") as old, pytest.raises(redis.AuthenticationError):
            old.get("svc-1:a")
        with _user(port, None, None) as nobody, pytest.raises(redis.AuthenticationError):
            nobody.get("svc-1:a")
    finally:
        process.terminate()
        process.wait(30)


def _user(port: int, name: str | None, password: str | None) -> redis.Redis:
    return redis.Redis(port=port, username=name, password=password, retry=Retry(NoBackoff(), 0))


def _wait_until_up(port: int) -> None:
    """Its data loaded, too: until then every command is answered with LOADING."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with _user(port, None, None) as nobody:
                nobody.ping()
        except redis.AuthenticationError:
            return
        except (redis.ConnectionError, redis.BusyLoadingError):
            assert time.monotonic() < deadline
            time.sleep(0.05)
