"""The operator with the rights that the chart gives it, as one or more processes of this host."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cluster.baton_objects import ROOT
from cluster.cluster import Cluster, eventually
from cluster.host_gateway import HostGateway
from fakes.free_port import free_port

MAIN = Path(__file__).with_name("operator_main.py")
RULES = ROOT / "deploy" / "helm" / "baton" / "templates" / "operator" / "_rules.tpl"
ACCOUNT = "baton-operator"
KEY = "the key of this installation"
IMAGE = "registry.example/baton:1"
# For what is not about who leads: on a busy machine the Lease of the other tests is soon lost.
PATIENT: dict[str, float] = {"lease_duration_s": 30, "lease_deadline_s": 25, "lease_retry_s": 1}
LEASE_RULES = [
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "resourceNames": [ACCOUNT],
        "verbs": ["get", "update"],
    },
]


def chart_rules(without: str = "") -> list[dict[str, Any]]:
    """What the chart lets the operator do with services; its lines of YAML, without the frame.

    All but one resource, where that is named.
    """
    text = re.sub(r"\{\{.*?\}\}", "", RULES.read_text(), flags=re.DOTALL)
    rules: list[dict[str, Any]] = yaml.safe_load(text)
    return [
        {**rule, "resources": rest}
        for rule in rules
        if (rest := [each for each in rule["resources"] if each != without])
    ]


class Operator:
    """One installation in `home`; it serves `namespace` (None: all) with one process or several.

    Times are a tenth of the defaults, so that tests wait for events and not for clocks.
    """

    def __init__(
        self, cluster: Cluster, home: str, namespace: str | None, gateway: HostGateway
    ) -> None:
        self.cluster = cluster
        self.home = home
        self.namespace = namespace
        self.gateway = gateway
        self._id = secrets.token_hex(3)
        self._metrics: dict[str, int] = {}
        self._health: dict[str, int] = {}
        self.grant()
        self.kubeconfig = cluster.as_service_account(home, ACCOUNT).kubeconfig

    @property
    def user(self) -> str:
        """As the audit log names it."""
        return f"system:serviceaccount:{self.home}:{ACCOUNT}"

    def start(self, name: str = "a", *, die_after: int = 0, **settings: object) -> None:
        """A process; up when it answers its probes, which says nothing about the Lease.

        With `die_after` it ends itself after so many writes, and is not waited for.
        """
        self._metrics[name], self._health[name] = free_port(), free_port()
        given = {
            "key": KEY,
            "image": IMAGE,
            "namespace": self.namespace or "",
            "own_namespace": self.home,
            "lease_name": ACCOUNT,
            "identity": f"operator-{name}",
            # Of a machine that does other things, too.
            "lease_duration_s": 10,
            "lease_deadline_s": 8,
            "lease_retry_s": 0.3,
            "min_interval_s": 0.1,
            "tick_s": 2,
            "backoff_s": 0.2,
            "max_backoff_s": 3,
            "resync_s": 30,
            "metrics_port": self._metrics[name],
            "health_port": self._health[name],
            **settings,
        }
        env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("BATON_")},
            "KUBECONFIG": str(self.kubeconfig),
            "BATON_TEST_GATEWAY_URL": self.gateway.url,
            "BATON_TEST_DIE_AFTER": str(die_after),
            **{f"BATON_OPERATOR_{key.upper()}": str(value) for key, value in given.items()},
        }
        process = self.process(name)
        self.cluster.processes.start(process, [sys.executable, MAIN], env=env)
        if not die_after:
            self.cluster.processes.wait_ready(process, lambda: self.healthy(name), within_s=60)

    def process(self, name: str = "a") -> str:
        return f"operator-{self._id}-{name}"

    def running(self, name: str = "a") -> bool:
        return self.cluster.processes.running(self.process(name))

    def stop(self, name: str = "a") -> None:
        """As Kubernetes does it."""
        self.cluster.processes.stop(self.process(name), within_s=30)

    def kill(self, name: str = "a") -> None:
        """As a node's end does it."""
        process = self.process(name)
        self.cluster.processes.signal(process, signal.SIGKILL)
        eventually(lambda: not self.cluster.processes.running(process))

    def stop_all(self) -> None:
        for name in self._metrics:
            if self.running(name):
                self.stop(name)

    def healthy(self, name: str = "a") -> bool:
        return self.probe("healthz", name) is not None and self.probe("readyz", name) is not None

    def probe(self, path: str, name: str = "a") -> dict[str, Any] | None:
        """What a probe answers; None when it fails."""
        try:
            url = f"http://127.0.0.1:{self._health[name]}/{path}"
            with urllib.request.urlopen(url, timeout=5) as answer:
                said: dict[str, Any] = json.load(answer)
                return said
        except OSError:
            return None

    def leads(self, name: str = "a") -> bool:
        said = self.probe("healthz", name)
        return said is not None and said["role"] == "leader"

    def metric(self, series: str, name: str = "a") -> float:
        """The value of one series, labels as they are printed; 0 when it is not there."""
        for line in self.metrics(name).splitlines():
            if line.startswith(f"{series} "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def metrics(self, name: str = "a") -> str:
        url = f"http://127.0.0.1:{self._metrics[name]}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def requests(self) -> list[tuple[str, str, int]]:
        """Verb, resource (with subresource) and code of everything that it asked the API server."""
        return [
            (record["verb"], _resource(record), record["responseStatus"]["code"])
            for record in self._records()
        ]

    def forbidden(self) -> list[tuple[str, str]]:
        """Verb and resource of what its roles do not allow."""
        decision = "authorization.k8s.io/decision"
        return [
            (record["verb"], _resource(record))
            for record in self._records()
            if record["annotations"].get(decision) == "forbid"
        ]

    def _records(self) -> Iterator[dict[str, Any]]:
        assert self.cluster.audit_log is not None
        for line in self.cluster.audit_log.read_text().splitlines():
            record = json.loads(line)
            if record["user"]["username"] == self.user and "objectRef" in record:
                yield record

    def grant(self, without: str = "") -> None:
        """The chart's account, roles and bindings; but for one resource, where that is named."""
        wide = self.namespace is None
        name = f"{ACCOUNT}-{self._id}" if wide else ACCOUNT
        account = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": self.home}
        kind = "ClusterRole" if wide else "Role"
        self.cluster.apply(_named("v1", "ServiceAccount", ACCOUNT), namespace=self.home)
        self._role("Role", f"{ACCOUNT}-lease", LEASE_RULES, account, self.home)
        self._role(kind, name, chart_rules(without), account, self.namespace)

    def _role(
        self,
        kind: str,
        name: str,
        rules: list[dict[str, Any]],
        account: dict[str, str],
        namespace: str | None,
    ) -> None:
        group = "rbac.authorization.k8s.io"
        role = {**_named(f"{group}/v1", kind, name), "rules": rules}
        reference = {"apiGroup": group, "kind": kind, "name": name}
        binding = {
            **_named(f"{group}/v1", f"{kind}Binding", name),
            "roleRef": reference,
            "subjects": [account],
        }
        self.cluster.apply(role, binding, namespace=namespace)


def _resource(record: dict[str, Any]) -> str:
    what = record["objectRef"]
    return "/".join(filter(None, (what["resource"], what.get("subresource"))))


def _named(api_version: str, kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}}
