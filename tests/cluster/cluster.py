"""A cluster as tests use it: clients, programs, namespaces, identities, fake nodes."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from kubernetes import client, config

from cluster import fake_nodes, kubeconfig
from cluster.processes import Processes
from cluster.tools import Tools

T = TypeVar("T")
Manifest = dict[str, Any]
_TOKEN_S = 3600 * 6
# With room for a machine that does other things.
_PROGRAM_S = 100.0


class CommandFailed(Exception):
    """kubectl or helm ended otherwise than with 0; the message is what it said."""


class Cluster:
    """Whose kubeconfig it has decides who acts: `as_user`, `as_service_account` give others.

    `api` is a client of the kubernetes library: `client.CoreV1Api(cluster.api)`.
    """

    def __init__(
        self, kubeconfig_path: Path, folder: Path, tools: Tools, processes: Processes
    ) -> None:
        self.kubeconfig = kubeconfig_path
        # Of an API server's own start; None for a cluster that was there. See ControlPlane.
        self.audit_log: Path | None = None
        # Programs that end with the test run, logs included.
        self.processes = processes
        self.api: client.ApiClient = config.new_client_from_config(str(kubeconfig_path))
        self._folder = folder
        self._tools = tools

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """What it prints; raises CommandFailed."""
        return self._run([str(self._tools.path("kubectl")), *args], stdin)

    def helm(self, *args: str, major: int = 4) -> str:
        """What it prints; `major` is 3 or 4. Raises CommandFailed."""
        return self._run([str(self._tools.path(f"helm{major}")), *args], None)

    def get(self, kind: str, name: str, namespace: str | None = None) -> Manifest | None:
        """None: there is none of this name."""
        printed = self.kubectl(
            "get", kind, name, *_in(namespace), "-o", "json", "--ignore-not-found"
        )
        found: Manifest | None = json.loads(printed) if printed else None
        return found

    def get_all(
        self, kind: str, namespace: str | None = None, selector: str = ""
    ) -> list[Manifest]:
        """All of a kind, with these labels (`a=b,c=d`); without a namespace, of all of them."""
        where = _in(namespace) if namespace else ["--all-namespaces"]
        printed = self.kubectl("get", kind, *where, "-l", selector, "-o", "json")
        items: list[Manifest] = json.loads(printed)["items"]
        return items

    def apply(
        self,
        *manifests: Manifest,
        namespace: str | None = None,
        manager: str = "test",
        force: bool = False,
    ) -> None:
        """Server-side; raises CommandFailed with the API server's message."""
        documents = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        options = ["--server-side", f"--field-manager={manager}", *_in(namespace)]
        if force:
            options.append("--force-conflicts")
        self.kubectl("apply", *options, "-f", "-", stdin=documents)

    def wait_for_crds(self, *names: str) -> None:
        """Until their kinds are served. `kubectl wait` fails where nothing is said of it yet."""

        def served(name: str) -> bool:
            status = (self.get("crd", name) or {}).get("status") or {}
            return any(
                (each["type"], each["status"]) == ("Established", "True")
                for each in status.get("conditions") or ()
            )

        for name in names:
            eventually(lambda name=name: served(name))

    @contextlib.contextmanager
    def namespace(self, labels: Mapping[str, str] | None = None) -> Iterator[str]:
        """A fresh one's name; it is deleted afterwards, without waiting for its end."""
        name = f"test-{secrets.token_hex(4)}"
        core = client.CoreV1Api(self.api)
        core.create_namespace({"metadata": {"name": name, "labels": dict(labels or {})}})
        try:
            # The controller manager's; pods are refused before.
            eventually(lambda: self._has_default_account(name))
            yield name
        finally:
            with contextlib.suppress(client.ApiException):
                core.delete_namespace(name)

    @contextlib.contextmanager
    def kwok_nodes(
        self,
        count: int,
        labels: Mapping[str, str] | None = None,
        capacity: Mapping[str, str] | None = None,
    ) -> Iterator[list[str]]:
        """Names of `count` Ready nodes whose pods start, become ready and end as kwok.yaml says.

        `capacity` adds resources, such as {"nvidia.com/gpu": "8"}. Nodes and what runs on them are
        removed afterwards.
        """
        fake_nodes.start(self.processes, self._tools.path("kwok"), self.kubeconfig)
        core = client.CoreV1Api(self.api)
        prefix = f"fake-{secrets.token_hex(3)}"
        names = [f"{prefix}-{i}" for i in range(count)]
        try:
            for name in names:
                core.create_node(fake_nodes.manifest(name, labels or {}, capacity or {}))
            eventually(lambda: set(names) <= self._ready_nodes(), within_s=30 + count / 20)
            yield names
        finally:
            self._remove_nodes(set(names))

    def as_user(self, name: str, group: str | None = None) -> Cluster:
        """A client whose rights are those of a user (impersonated by this one)."""
        file = self._folder / f"user-{secrets.token_hex(4)}.kubeconfig"
        own = kubeconfig.read(self.kubeconfig)
        other = self._with(kubeconfig.write(file, kubeconfig.impersonating(own, name, group)))
        # The Python client does not read this of a kubeconfig.
        other.api.set_default_header("Impersonate-User", name)
        if group:
            other.api.set_default_header("Impersonate-Group", group)
        return other

    def as_service_account(self, namespace: str, name: str) -> Cluster:
        """A client with a token of a service account that exists."""
        request = {"spec": {"expirationSeconds": _TOKEN_S}}
        token = client.CoreV1Api(self.api).create_namespaced_service_account_token(
            name, namespace, request
        )
        file = self._folder / f"{namespace}-{name}-{secrets.token_hex(4)}.kubeconfig"
        own = kubeconfig.read(self.kubeconfig)
        return self._with(kubeconfig.write(file, kubeconfig.with_token(own, token.status.token)))

    def _with(self, kubeconfig_path: Path) -> Cluster:
        other = Cluster(kubeconfig_path, self._folder, self._tools, self.processes)
        other.audit_log = self.audit_log
        return other

    def _run(self, command: list[str], stdin: str | None) -> str:
        # Homes of its own: the user's plugins, caches and repositories are not the test's.
        env = {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "HOME": str(self._folder),
            **{f"HELM_{kind}_HOME": str(self._folder / "helm" / kind.lower()) for kind in _HOMES},
        }
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=env, timeout=_PROGRAM_S
        )
        if done.returncode:
            raise CommandFailed(f"{' '.join(command[:3])}: {done.stderr.strip() or done.stdout}")
        return done.stdout

    def _has_default_account(self, namespace: str) -> bool:
        accounts = client.CoreV1Api(self.api).list_namespaced_service_account(namespace)
        return any(account.metadata.name == "default" for account in accounts.items)

    def _ready_nodes(self) -> set[str]:
        return {
            node.metadata.name
            for node in client.CoreV1Api(self.api).list_node().items
            for condition in node.status.conditions or []
            if condition.type == "Ready" and condition.status == "True"
        }

    def _remove_nodes(self, names: set[str]) -> None:
        # Pods first: nobody would end those of a node that is gone.
        core = client.CoreV1Api(self.api)
        for pod in core.list_pod_for_all_namespaces().items:
            if pod.spec.node_name in names:
                with contextlib.suppress(client.ApiException):
                    core.delete_namespaced_pod(
                        pod.metadata.name, pod.metadata.namespace, grace_period_seconds=0
                    )
        for name in names:
            with contextlib.suppress(client.ApiException):
                core.delete_node(name)


_HOMES = ("CACHE", "CONFIG", "DATA")


def eventually(
    condition: Callable[[], T | bool | None], within_s: float = 60, every_s: float = 0.1
) -> T:
    """What `condition()` returns once that is true; AssertionError with its last value."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value  # type: ignore[return-value]
        assert time.monotonic() < deadline, f"still {value!r} after {within_s} s"
        time.sleep(every_s)


def _in(namespace: str | None) -> list[str]:
    return ["-n", namespace] if namespace else []
