"""etcd, API server, controller manager and scheduler on loopback, with rights checked."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from cluster import kubeconfig
from cluster.certificates import Authority
from cluster.processes import Processes
from cluster.tools import Tools
from fakes.free_port import free_port

_SERVICE_RANGE = "10.96.0.0/16"
_FIRST_SERVICE = "10.96.0.1"
# For documentation (RFC 5737): nobody is there. Loopback is refused as an endpoint.
_NOBODY = "203.0.113.1"
_START_S = 120.0
# Who asked for what, of service accounts outside kube-system: tests compare it to their roles.
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}


class ControlPlane:
    """One for a test run; `folder` holds its data, its keys and `kubeconfig` of an admin.

    `nodes_address` is where kubelets and pods reach the API server, which then listens there too;
    None when no node runs.
    """

    def __init__(self, tools: Tools, folder: Path, nodes_address: str | None = None) -> None:
        self.processes = Processes(folder / "logs")
        self.kubeconfig = folder / "kubeconfig"
        self.audit_log = folder / "audit.log"
        self._tools = tools
        self._folder = folder
        self._port = free_port()
        self._nodes_address = nodes_address
        self._keys = folder / "keys"
        for sub_folder in (self.processes.logs, self._keys):
            sub_folder.mkdir(parents=True)
        self.authority = Authority(self._keys)

    def start(self) -> None:
        """Returns when pods could be made; raises ProcessEnded with a log, or MissingTools."""
        programs = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]
        paths = {name: self._tools.path(name) for name in programs}
        try:
            etcd_port = self._start_etcd(paths["etcd"])
            self._start_apiserver(paths["kube-apiserver"], etcd_port)
            self._start_controllers(paths["kube-controller-manager"])
            self._start_scheduler(paths["kube-scheduler"])
            # Pods are refused before it exists: the controllers make it.
            account = "/api/v1/namespaces/default/serviceaccounts/default"
            self.processes.wait_ready(
                "kube-controller-manager", lambda: self._ok(account), _START_S
            )
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self.processes.stop_all()

    def _start_etcd(self, program: Path) -> int:
        port, peers = free_port(), free_port()
        self.processes.start(
            "etcd",
            [
                program,
                f"--data-dir={self._folder / 'etcd'}",
                f"--listen-client-urls=http://127.0.0.1:{port}",
                f"--advertise-client-urls=http://127.0.0.1:{port}",
                f"--listen-peer-urls=http://127.0.0.1:{peers}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}",
                f"--initial-cluster=default=http://127.0.0.1:{peers}",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
        )
        return port

    def _start_apiserver(self, program: Path, etcd_port: int) -> None:
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        addresses = ["127.0.0.1", _FIRST_SERVICE]
        if self._nodes_address:
            addresses.append(self._nodes_address)
        serving = self.authority.issue("apiserver", "kube-apiserver", hosts=[*names, *addresses])
        front_proxy = self.authority.issue("front-proxy", "front-proxy-client")
        token_key = self.authority.signing_key("service-accounts")
        policy = self._folder / "audit-policy.json"
        policy.write_text(json.dumps(_AUDIT_POLICY))
        self._write_admin()
        self.processes.start(
            "kube-apiserver",
            [
                program,
                f"--etcd-servers=http://127.0.0.1:{etcd_port}",
                f"--secure-port={self._port}",
                *self._addresses(),
                f"--service-cluster-ip-range={_SERVICE_RANGE}",
                f"--tls-cert-file={serving.certificate}",
                f"--tls-private-key-file={serving.key}",
                f"--client-ca-file={self.authority.pair.certificate}",
                "--authorization-mode=Node,RBAC",
                f"--service-account-key-file={token_key}",
                f"--service-account-signing-key-file={token_key}",
                "--service-account-issuer=https://kubernetes.default.svc",
                # APIServices of tests (metrics for an autoscaler).
                f"--requestheader-client-ca-file={self.authority.pair.certificate}",
                "--requestheader-allowed-names=front-proxy-client",
                "--requestheader-username-headers=X-Remote-User",
                "--requestheader-group-headers=X-Remote-Group",
                "--requestheader-extra-headers-prefix=X-Remote-Extra-",
                f"--proxy-client-cert-file={front_proxy.certificate}",
                f"--proxy-client-key-file={front_proxy.key}",
                f"--audit-policy-file={policy}",
                f"--audit-log-path={self.audit_log}",
                "--profiling=false",
            ],
        )
        self.processes.wait_ready("kube-apiserver", lambda: self._ok("/readyz"), _START_S)

    def _addresses(self) -> list[str]:
        """Of the API server, and how it calls kubelets."""
        if self._nodes_address is None:
            return [
                "--bind-address=127.0.0.1",
                f"--advertise-address={_NOBODY}",
                "--endpoint-reconciler-type=none",
            ]
        pair = self.authority.issue("kubelet-client", "kube-apiserver", ["system:masters"])
        return [
            "--bind-address=0.0.0.0",
            f"--advertise-address={self._nodes_address}",
            f"--kubelet-client-certificate={pair.certificate}",
            f"--kubelet-client-key={pair.key}",
            "--kubelet-preferred-address-types=InternalIP",
        ]

    def _start_controllers(self, program: Path) -> None:
        ca = self.authority.pair
        self.processes.start(
            "kube-controller-manager",
            [
                program,
                f"--kubeconfig={self.kubeconfig_of('kube-controller-manager')}",
                "--secure-port=0",
                "--leader-elect=false",
                "--use-service-account-credentials",
                f"--service-account-private-key-file={self._keys / 'service-accounts.key'}",
                f"--root-ca-file={ca.certificate}",
                f"--cluster-signing-cert-file={ca.certificate}",
                f"--cluster-signing-key-file={ca.key}",
                # Tests wait for what these do.
                "--horizontal-pod-autoscaler-sync-period=2s",
                "--kube-api-qps=200",
                "--kube-api-burst=400",
            ],
        )

    def _start_scheduler(self, program: Path) -> None:
        self.processes.start(
            "kube-scheduler",
            [
                program,
                f"--kubeconfig={self.kubeconfig_of('kube-scheduler')}",
                "--secure-port=0",
                "--leader-elect=false",
                "--kube-api-qps=200",
                "--kube-api-burst=400",
            ],
        )

    def kubeconfig_of(self, component: str, user: str = "", group: str = "") -> Path:
        """For a part of the cluster, by default the user `system:COMPONENT`."""
        pair = self.authority.issue(
            component, user or f"system:{component}", [group] if group else []
        )
        config = kubeconfig.of_certificate(self._url, self.authority.pair.certificate, pair)
        return kubeconfig.write(self._keys / f"{component}.kubeconfig", config)

    def _write_admin(self) -> None:
        admin = self.kubeconfig_of("admin", "admin", "system:masters")
        admin.rename(self.kubeconfig)
        self._tls = ssl.create_default_context(cafile=str(self.authority.pair.certificate))
        self._tls.load_cert_chain(self._keys / "admin.crt", self._keys / "admin.key")

    @property
    def _url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    def _ok(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(self._url + path, timeout=5, context=self._tls) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
