"""TLS of a ModelService: what is mounted is what is used, and whoever asks the gateways knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from baton.core import settings_loader
from baton.core.settings import Settings
from baton_operator.resources.context import Context
from baton_operator.resources.exposure import gateway_service
from baton_operator.resources.gateway import gateway_template
from baton_operator.resources.monitors import monitors
from baton_operator.resources.pods.baton_yaml import gateway_config, worker_config
from baton_operator.resources.pods.worker import worker_template
from fakes.model_services import container, context_of, mounts

PLAIN = context_of()
FRONT = context_of({"gateway": {"tls": {"secretName": "front"}}})
INNER = context_of({"security": {"mtlsSecret": "inner"}})


def load(text: str, folder: Path) -> Settings:
    path = folder / "baton.yaml"
    path.write_text(text, encoding="utf-8")
    return settings_loader.load(path)


def of_gateway(context: Context, folder: Path) -> tuple[Settings, dict[str, Any]]:
    return load(gateway_config(context), folder), gateway_template(context)


def of_worker(context: Context, folder: Path) -> tuple[Settings, dict[str, Any]]:
    pool = context.spec.pools[0]
    return load(worker_config(context, pool), folder), worker_template(context, pool, "r1")


def test_the_gateways_certificate_is_read_where_it_is_mounted(tmp_path: Path) -> None:
    settings, template = of_gateway(FRONT, tmp_path)
    cert, key = settings.gateway.tls_cert_file, settings.gateway.tls_key_file
    assert cert is not None and key is not None
    assert (cert.name, key.name) == ("tls.crt", "tls.key")
    for file in (cert, key):
        volume, _ = mounts(template)[str(file.parent)]
        assert volume["secret"]["secretName"] == "front"
    # Workers have nothing to do with it, so it starts no new revision.
    assert worker_config(FRONT, FRONT.spec.pools[0]) == worker_config(PLAIN, PLAIN.spec.pools[0])


@pytest.mark.parametrize("of", [of_gateway, of_worker])
def test_mutual_tls_is_read_where_it_is_mounted(of: Any, tmp_path: Path) -> None:
    settings, template = of(INNER, tmp_path)
    tls = settings.tls
    names = [file.name for file in (tls.cert_file, tls.key_file, tls.ca_file)]
    assert names == ["tls.crt", "tls.key", "ca.crt"]
    volume, _ = mounts(template)[str(tls.cert_file.parent)]
    assert volume["secret"]["secretName"] == "inner"
    assert of(PLAIN, tmp_path)[0].tls.cert_file is None


def test_probes_come_the_way_that_the_port_speaks() -> None:
    probes = ("startupProbe", "livenessProbe", "readinessProbe")
    for context, scheme in ((FRONT, "HTTPS"), (PLAIN, None)):
        found = container(gateway_template(context))
        assert {found[probe]["httpGet"].get("scheme") for probe in probes} == {scheme}
    # Health of workers is for the kubelet alone, without TLS.
    found = container(worker_template(INNER, INNER.spec.pools[0], "r1"))
    assert {found[probe]["httpGet"].get("scheme") for probe in probes} == {None}


def test_the_service_says_what_its_ports_speak() -> None:
    def protocols(context: Context) -> dict[str, str]:
        return {p["name"]: p["appProtocol"] for p in gateway_service(context)["spec"]["ports"]}

    assert protocols(PLAIN) == {"http": "http", "grpc": "kubernetes.io/h2c"}
    assert protocols(FRONT) == {"http": "https", "grpc": "grpc"}


def test_prometheus_scrapes_over_https() -> None:
    for context, scheme in ((FRONT, "https"), (PLAIN, None)):
        [gateway] = [each for each in monitors(context) if each["kind"] == "ServiceMonitor"]
        assert gateway["spec"]["endpoints"][0].get("scheme") == scheme
