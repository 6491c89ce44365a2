"""LeaderWorkerSet with its own controller and webhooks, as a process of this host."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cluster.certificates import Authority
from cluster.cluster import Cluster
from cluster.outside_crds import outside_crds
from cluster.tools import Tools
from fakes.free_port import free_port

GROUP = "leaderworkerset.x-k8s.io"
# As its own manifests have them: pods of a set alone are asked about.
_OF_A_SET = {
    "matchExpressions": [{"key": "leaderworkerset.sigs.k8s.io/name", "operator": "Exists"}]
}
_PROCESS = "lws"


@contextlib.contextmanager
def leader_worker_sets(cluster: Cluster, folder: Path) -> Iterator[None]:
    """Within it, groups get their pods; `folder` is for its keys and settings.

    As a user of its own it would need its chart's roles: it acts as the cluster's admin.
    """
    program = Tools().path("lws")
    authority = Authority(folder)
    pair = authority.issue("webhooks", "localhost", hosts=["localhost"])
    shutil.copy(pair.certificate, folder / "tls.crt")
    shutil.copy(pair.key, folder / "tls.key")
    port, health = free_port(), free_port()
    settings = folder / "lws.yaml"
    settings.write_text(yaml.safe_dump(_settings(folder, port, health)))
    webhooks = _webhooks(f"https://localhost:{port}", authority.pair.certificate)
    # As they are installed: without its webhooks it would make pods that lack their labels.
    cluster.apply(*webhooks)
    command = [program, f"--config={settings}", "--zap-log-level=error"]
    env = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
    try:
        with outside_crds(cluster, "lws"):
            cluster.processes.start(_PROCESS, command, env=env)
            tls = ssl.create_default_context(cafile=str(authority.pair.certificate))
            cluster.processes.wait_ready(_PROCESS, lambda: _serves(port, tls), within_s=60)
            yield
    finally:
        for each in webhooks:
            cluster.kubectl("delete", each["kind"], "lws")
        cluster.processes.stop(_PROCESS)


def _settings(folder: Path, port: int, health: int) -> dict[str, Any]:
    return {
        "apiVersion": "config.lws.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "webhook": {"host": "127.0.0.1", "port": port, "certDir": str(folder)},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
    }


def _webhooks(url: str, certificate: Path) -> list[dict[str, Any]]:
    """As config/webhook of the project has them, but for where they are served."""
    authority = base64.b64encode(certificate.read_bytes()).decode()

    def hook(name: str, path: str, group: str, resource: str, verbs: list[str]) -> dict[str, Any]:
        rule = {
            "apiGroups": [group],
            "apiVersions": ["v1"],
            "operations": verbs,
            "resources": [resource],
        }
        return {
            "name": f"{name}.kb.io",
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": f"{url}/{path}", "caBundle": authority},
            "rules": [rule],
            "objectSelector": {} if group else _OF_A_SET,
            "sideEffects": "None",
        }

    sets = (GROUP, "leaderworkersets", ["CREATE", "UPDATE"])
    path = "leaderworkerset-x-k8s-io-v1-leaderworkerset"
    mutating = [
        hook("mleaderworkerset", f"mutate-{path}", *sets),
        hook("mpod", "mutate--v1-pod", "", "pods", ["CREATE"]),
    ]
    validating = [
        hook("vleaderworkerset", f"validate-{path}", *sets),
        hook("vpod", "validate--v1-pod", "", "pods", ["CREATE", "UPDATE"]),
    ]
    return [
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": f"{kind}WebhookConfiguration",
            "metadata": {"name": "lws"},
            "webhooks": hooks,
        }
        for kind, hooks in (("Mutating", mutating), ("Validating", validating))
    ]


def _serves(port: int, tls: ssl.SSLContext) -> bool:
    """Whether the webhooks do, which come after the controllers."""
    try:
        with urllib.request.urlopen(f"https://localhost:{port}/", timeout=5, context=tls):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
