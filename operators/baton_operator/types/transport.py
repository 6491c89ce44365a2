"""How KV goes from worker to worker, and what pods need for it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from baton_operator.types.base import Part, Rule
from baton_operator.types.scalars import ResourceName


class RdmaSpec(Part):
    """The network device that worker pods get."""

    resource_name: ResourceName
    """What the device plugin calls it, for instance rdma/hca_shared_devices_a."""
    quantity: int = Field(1, ge=1, le=64)
    """Devices for each pod."""
    host_network: bool = False
    """Whether pods use the node's network, where the device is not in the pod's."""
    network_attachment: (
        Annotated[
            str,
            StringConstraints(
                pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(@[a-z0-9]+)?$",
                min_length=1,
                max_length=253,
            ),
        ]
        | None
    ) = None
    """NetworkAttachmentDefinition of this namespace, with @interface if need be; unset adds no
    network."""

    rules = (
        Rule(
            "!self.hostNetwork || !has(self.networkAttachment)",
            "transport.rdma: a pod has either the node's network or an attachment; remove "
            "hostNetwork or networkAttachment",
            lambda r: not r.host_network or r.network_attachment is None,
        ),
    )


class TransportSpec(Part):
    """How KV goes from worker to worker."""

    profile: Literal["tcp", "rdma", "node"] = "tcp"
    """tcp: restricted pods on any network. rdma: adds a network device and IPC_LOCK. node: adds
    the node's IPC and PID namespaces, for NVLink between pods of a node. Namespaces have to allow
    the latter two."""
    rdma: RdmaSpec | None = None
    """The network device; needed by, and only for, profile rdma."""

    rules = (
        Rule(
            "self.profile != 'rdma' || has(self.rdma)",
            "set transport.rdma.resourceName: profile rdma needs to know the network device",
            lambda t: t.profile != "rdma" or t.rdma is not None,
        ),
        Rule(
            "self.profile == 'rdma' || !has(self.rdma)",
            "transport.rdma is for profile rdma: set that profile or remove rdma",
            lambda t: t.profile == "rdma" or t.rdma is None,
        ),
    )
