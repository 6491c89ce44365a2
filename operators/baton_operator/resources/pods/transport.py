"""What the transport profiles need of a worker's pod beyond a restricted one.

| profile | more |
|---|---|
| tcp | nothing |
| rdma | a network device, IPC_LOCK to pin memory; optionally the node's network or another one |
| node | the node's IPC and PID namespaces, by which CUDA lets one pod open another's GPU memory |
"""

from __future__ import annotations

from baton_operator.resources.context import Manifest
from baton_operator.types.transport import TransportSpec

NETWORKS_ANNOTATION = "k8s.v1.cni.cncf.io/networks"
"""Of the Network Plumbing Working Group's standard, which Multus implements."""


def apply_transport(transport: TransportSpec, template: Manifest) -> None:
    """Change a worker's pod template to what its profile needs."""
    spec = template["spec"]
    if transport.profile == "node":
        spec["hostIPC"] = True
        spec["hostPID"] = True
    if transport.rdma is None:
        return
    spec["containers"][0]["securityContext"] |= {
        # A capability that is added has an effect for root alone, which has no other one here.
        "runAsUser": 0,
        "runAsNonRoot": False,
        "capabilities": {"drop": ["ALL"], "add": ["IPC_LOCK"]},
    }
    if transport.rdma.host_network:
        spec["hostNetwork"] = True
        # Else names of Services would not be found.
        spec["dnsPolicy"] = "ClusterFirstWithHostNet"
    if transport.rdma.network_attachment is not None:
        template["metadata"]["annotations"][NETWORKS_ANNOTATION] = transport.rdma.network_attachment


def transport_limits(transport: TransportSpec) -> dict[str, str]:
    """Devices that each pod asks for."""
    rdma = transport.rdma
    return {} if rdma is None else {rdma.resource_name: str(rdma.quantity)}
