"""What carries the bytes to a peer, and how fast: told and measured when a link comes up.

The measurement writes into a scratch region that every agent registers for it, between host
memories; KV blocks are never touched. Which fabric UCX took it tells nobody, so that is inferred
from what both ends may use; "unknown" where that leaves it open.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from baton.core.errors import HandoffError
from baton.core.settings import TransferSettings
from baton.telemetry.logging import event
from baton.transfer.base import LinkInfo
from baton.transfer.process import node

log = logging.getLogger(__name__)

SCRATCH_BYTES = 256 * 2**10
# A measurement ends after this long, or this much, or when a handoff wants the wire.
MEASURE_S = 0.02
MEASURE_BYTES = 64 * 2**20
# One write of the scratch region may take this long, before the rate stays unknown.
WRITE_WAIT_S = 1.0

RDMA, SHARED_MEMORY, CUDA_IPC, TCP, UNKNOWN = "rdma", "shared memory", "cuda_ipc", "tcp", "unknown"

# UCX transports, and the names that stand for several.
_SHARED_MEMORY = frozenset({"sm", "shm", "mm", "posix", "sysv", "cma", "knem", "xpmem"})
_RDMA = frozenset({"ib", "rc", "rc_v", "rc_x", "ud", "ud_v", "ud_x", "dc", "dc_x", "gga_x"})
_CUDA_IPC = frozenset({"cuda", "cuda_ipc"})
_TCP = frozenset({"tcp"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What an agent tells besides its own metadata: scratch memory, and where it runs."""

    scratch: int
    node: str
    has_rdma: bool

    def pack(self, metadata: bytes) -> bytes:
        """Endpoint metadata as peers get it."""
        header = json.dumps(asdict(self)).encode()
        return struct.pack("<I", len(header)) + header + metadata


def unpack(packed: bytes) -> tuple[Endpoint, bytes]:
    """The way back. Raises HandoffError for what is no such metadata, or another transport's."""
    try:
        (length,) = struct.unpack_from("<I", packed)
        document = json.loads(packed[4 : 4 + length])
        return Endpoint(**document), packed[4 + length :]
    except (struct.error, ValueError, TypeError) as error:
        raise HandoffError("the peer's endpoint is not of this transport") from error


def has_rdma(net_devices: str | None, root: Path = Path("/sys/class/infiniband")) -> bool:
    """Whether this machine has an RDMA device that UCX_NET_DEVICES (empty: any) lets it use."""
    try:
        devices = {entry.name for entry in root.iterdir()}
    except OSError:
        return False
    if not net_devices or net_devices == "all":
        return bool(devices)
    return any(name.strip().partition(":")[0] in devices for name in net_devices.split(","))


def fabric(ucx_tls: str | None, *, same_node: bool, rdma: bool, memories: Sequence[str]) -> str:
    """What UCX takes by its own preference: the fastest that both ends may use.

    `rdma`: both have a device for it. `memories` are those of the arenas at both ends. Of a peer on
    this kernel in another pid namespace, and of device memory, less is known than of plain hosts.
    """
    on_device = [memory == "VRAM" for memory in memories]
    if same_node and on_device and all(on_device):
        return CUDA_IPC if _allows(ucx_tls, _CUDA_IPC) else UNKNOWN
    if same_node and not any(on_device) and _allows(ucx_tls, _SHARED_MEMORY):
        return SHARED_MEMORY
    if rdma and _allows(ucx_tls, _RDMA):
        return RDMA
    return TCP if _allows(ucx_tls, _TCP) else UNKNOWN


def _allows(ucx_tls: str | None, names: frozenset[str]) -> bool:
    """Whether UCX_TLS leaves any of these."""
    if not ucx_tls or ucx_tls == "all":
        return True
    listed = {name.strip() for name in ucx_tls.lstrip("^").split(",")}
    if ucx_tls.startswith("^"):
        return not listed & names
    return bool(listed & names)


def here(scratch: int) -> Endpoint:
    """This process's endpoint, by the environment that UCX reads."""
    return Endpoint(scratch, node(), has_rdma(os.environ.get("UCX_NET_DEVICES")))


def fabric_between(ours: Endpoint, theirs: Endpoint, memories: Sequence[str]) -> str:
    """`fabric` for two endpoints, by this process's UCX_TLS."""
    return fabric(
        os.environ.get("UCX_TLS"),
        same_node=bool(ours.node) and ours.node == theirs.node,
        rdma=ours.has_rdma and theirs.has_rdma,
        memories=memories,
    )


def warn_of_fabric(settings: TransferSettings, transport: str, peer: str, link: LinkInfo) -> None:
    """Log what a link came to; loudly when RDMA was expected and something else came."""
    facts = {
        "peer": peer,
        "transport": transport,
        "fabric": link.fabric,
        "gb_per_s": round(link.bytes_per_s / 1e9, 3),
    }
    log.info(*event("peer_link", **facts))
    if settings.expect_rdma and link.fabric != RDMA:
        hint = "KV moves without RDMA: check UCX_NET_DEVICES, UCX_TLS and ibv_devices"
        log.error(*event("rdma_expected", **facts, hint=hint))


def measure(write: Callable[[], bool], wanted: Callable[[], bool]) -> float | None:
    """Bytes per second of `write`, which moves SCRATCH_BYTES and says whether they arrived.

    0 when one did not; None when the wire was `wanted` before there was anything to tell.
    """
    # The first one finds the way.
    if not write():
        return 0.0
    began = time.perf_counter()
    num_bytes, elapsed = 0, 0.0
    while num_bytes < MEASURE_BYTES and elapsed < MEASURE_S and not wanted():
        if not write():
            return 0.0
        num_bytes += SCRATCH_BYTES
        elapsed = time.perf_counter() - began
    return num_bytes / elapsed if num_bytes else None
