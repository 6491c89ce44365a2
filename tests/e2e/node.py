"""One real node: containerd, kubelet, kube-proxy and CoreDNS on a bridge of a network namespace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from cluster.cluster import Cluster, eventually
from cluster.control_plane import ControlPlane
from cluster.tools import MissingTools, Tools
from e2e import images

# The kubelet refuses loopback as its address: the pods' bridge has another that stays here.
ADDRESS = "10.88.0.1"
_PODS = "10.88.0.0/24"
_FIRST_POD = "10.88.0.10"
_SERVICES = "10.96.0.0/16"
_DNS_SERVICE = "10.96.0.10"
_PAUSE = "baton.test/pause:1"
NAME = "node"
_DEBIAN = {
    str(images.BUSYBOX): "busybox-static",
    "containerd": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}


class Node:
    """Needs to run inside tests/e2e/in_namespaces; the control plane is started before."""

    def __init__(self, tools: Tools, folder: Path, plane: ControlPlane) -> None:
        missing = [package for name, package in _DEBIAN.items() if not shutil.which(name)]
        if missing:
            raise MissingTools(f"a node needs more: apt-get install {' '.join(missing)}")
        self._tools = tools
        self._folder = folder
        self._plane = plane
        self._processes = plane.processes
        self._socket = folder / "containerd.sock"

    def start_network(self) -> None:
        """The bridge, at whose address the API server listens: pods would make it too late."""
        for args in (
            "link add cni0 type bridge",
            f"address add {ADDRESS}/24 dev cni0",
            "link set cni0 up",
            # So that addresses of Services get as far as kube-proxy's rules from here, too.
            f"route add {_SERVICES} dev cni0",
        ):
            subprocess.run(["ip", *args.split()], check=True)

    def start(self, cluster: Cluster) -> None:
        """Returns when the node is Ready and resolves names."""
        self._start_containerd()
        self.import_image(images.pause(_PAUSE, self._folder / "pause.tar"))
        self._start_kubelet()
        self._start_proxy()
        self._start_dns(cluster)
        eventually(lambda: _is_ready(cluster), within_s=90)

    def import_image(self, archive: Path) -> None:
        """Of `images`; pods name its tag with `imagePullPolicy: Never`."""
        self.ctr("images", "import", str(archive))

    def ctr(self, *args: str) -> str:
        """What containerd's own client prints, in the namespace of Kubernetes."""
        command = ["ctr", "-a", str(self._socket), "-n", "k8s.io", *args]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _start_containerd(self) -> None:
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": _PODS, "rangeStart": _FIRST_POD, "gateway": ADDRESS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        networks = self._folder / "networks"
        networks.mkdir()
        network = {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}
        (networks / "pods.conflist").write_text(json.dumps(network))
        default = subprocess.run(["ctr", "oci", "spec"], check=True, capture_output=True, text=True)
        spec = _json(self._folder / "runtime.json", images.runtime_spec(default.stdout))
        config = self._folder / "containerd.toml"
        config.write_text(
            f"""
version = 2
root = "{self._folder}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{self._socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{_PAUSE}"
  stream_server_address = "127.0.0.1"
  # Where CAP_SYS_RESOURCE is missing, scores below one's own are refused.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    base_runtime_spec = "{spec}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{networks}"
"""
        )
        self._processes.start("containerd", ["containerd", "--config", config])
        self._processes.wait_ready("containerd", self._containerd_answers, 30)

    def _containerd_answers(self) -> bool:
        command = ["ctr", "-a", str(self._socket), "version"]
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0

    def _start_kubelet(self) -> None:
        serving = self._plane.authority.issue("kubelet-serving", NAME, hosts=[ADDRESS])
        resolv = self._folder / "resolv.conf"
        resolv.write_text("")
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": ADDRESS,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self._plane.authority.pair.certificate)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(serving.certificate),
            "tlsPrivateKeyFile": str(serving.key),
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": os.environ["BATON_TEST_CGROUP"],
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "clusterDNS": [_DNS_SERVICE],
            "clusterDomain": "cluster.local",
            "resolvConf": str(resolv),
            # The disk is the machine's: how full it is decides nothing here.
            "evictionHard": {"memory.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
        }
        group = "system:nodes"
        identity = self._plane.kubeconfig_of("kubelet", f"system:node:{NAME}", group)
        self._processes.start(
            "kubelet",
            [
                self._tools.path("kubelet"),
                f"--config={_json(self._folder / 'kubelet.json', config)}",
                f"--kubeconfig={identity}",
                f"--root-dir={self._folder / 'kubelet'}",
                f"--hostname-override={NAME}",
                f"--node-ip={ADDRESS}",
            ],
        )

    def _start_proxy(self) -> None:
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "hostnameOverride": NAME,
            "clusterCIDR": _PODS,
            "clientConnection": {"kubeconfig": str(self._plane.kubeconfig_of("kube-proxy"))},
            # Settings of the whole machine: left as they are.
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
            "iptables": {"syncPeriod": "30s", "minSyncPeriod": "100ms"},
            "oomScoreAdj": 0,
        }
        path = _json(self._folder / "kube-proxy.json", config)
        self._processes.start("kube-proxy", [self._tools.path("kube-proxy"), f"--config={path}"])

    def _start_dns(self, cluster: Cluster) -> None:
        """Outside any pod; pods reach it by its Service, as they would elsewhere."""
        identity = self._plane.kubeconfig_of("coredns")
        corefile = self._folder / "Corefile"
        corefile.write_text(
            f""".:53 {{
  bind {ADDRESS}
  errors
  ready 127.0.0.1:8181
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {identity}
  }}
  cache 5
}}
"""
        )
        cluster.apply(*_dns_manifests(), namespace="kube-system")
        self._processes.start("coredns", [self._tools.path("coredns"), "-conf", corefile])
        self._processes.wait_ready("coredns", _dns_answers, 30)


def _dns_answers() -> bool:
    try:
        with urllib.request.urlopen("http://127.0.0.1:8181/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _is_ready(cluster: Cluster) -> bool:
    node = cluster.get("node", NAME)
    conditions = node["status"].get("conditions", []) if node else []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _dns_manifests() -> list[dict[str, Any]]:
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}]
    ports.append({"name": "dns-tcp", "port": 53, "protocol": "TCP"})
    read = ["list", "watch"]
    rules = [
        {"apiGroups": [""], "resources": ["services", "namespaces", "pods"], "verbs": read},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "coredns"}
    user = {"apiGroup": role["apiGroup"], "kind": "User", "name": "system:coredns"}
    return [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "coredns"},
            "rules": rules,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "coredns"},
            "roleRef": role,
            "subjects": [user],
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns"},
            "spec": {"clusterIP": _DNS_SERVICE, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns",
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [ADDRESS], "conditions": {"ready": True}}],
            "ports": ports,
        },
    ]


def _json(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content, indent=1))
    return path
