"""Transport over NIXL (UCX): RDMA, shared memory, CUDA IPC or TCP, whichever UCX finds.

Arenas are registered once. Lists of all blocks are prepared once per pair (`nixl_peer`), so that a
write is two arrays of indices.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from baton.core.errors import HandoffError
from baton.core.settings import TransferSettings
from baton.transfer.base import (
    Arena,
    BlockWrite,
    Key,
    LinkInfo,
    PeerShard,
    ReservedGroup,
    WriteResult,
)
from baton.transfer.checksum import common_algorithm
from baton.transfer.codec import Codec
from baton.transfer.nixl_peer import LocalLists, NixlPeer
from baton.transfer.nixl_records import RecordWriter
from baton.transfer.nixl_sender import NixlSender
from baton.transfer.nixl_staging import StagingPool
from baton.transfer.preflight import SCRATCH_BYTES, Endpoint, here
from baton.transfer.writes import WriteChecker

STOP_WAIT_S = 5.0
# Microseconds between looks of an agent's progress thread, when no event wakes it.
PROGRESS_DELAY_US = 1000

# UCX transports by which a process of the same node copies into another's memory by itself: the
# copy goes on even when the receiving agent is destroyed half way.
_HOST_COPIES = frozenset({"cma", "knem", "xpmem"})
_DEVICE_COPIES = frozenset({"cuda_ipc"})
# Names that stand for several transports, some of the above among them.
_HOST_ALIASES = frozenset({"sm", "shm"})
_DEVICE_ALIASES = frozenset({"cuda"})


class NixlTransport:
    """One NIXL agent with the UCX backend, see `base.Transport`.

    `agent_name` must be unique to this life of the process.
    """

    name = "nixl"

    def __init__(self, agent_name: str, settings: TransferSettings) -> None:
        _configure_ucx(settings)
        self._prefix = agent_name
        self._checksums = settings.checksum == "always"
        self.transport_epoch = 1
        self.recreate_fences_node = fences_node(os.environ.get("UCX_TLS"))
        self._arenas: dict[int, Arena] = {}
        self._codecs: tuple[Codec, ...] = ()
        self._local: LocalLists | None = None
        self._staging: StagingPool | None = None
        self._senders: dict[str, NixlSender] = {}
        # Told to stop; they leave as soon as their write lets them.
        self._leaving: list[NixlSender] = []
        self._agent: Any = _new_agent(self.agent_name)
        # Nobody reads what peers write here; it tells them how fast they can.
        self._scratch = np.zeros(SCRATCH_BYTES, np.uint8)

    @property
    def agent_name(self) -> str:
        return f"{self._prefix}.{self.transport_epoch}"

    @property
    def codecs(self) -> tuple[str, ...]:
        return tuple(codec.name for codec in self._codecs[:1])

    def register(self, arenas: Sequence[Arena], codecs: Sequence[Codec] = ()) -> None:
        self._arenas = {arena.group: arena for arena in arenas}
        self._codecs = tuple(codecs)
        for arena in arenas:
            length = arena.num_blocks * arena.block_bytes
            region = [(arena.address, length, arena.device_id, "")]
            self._agent.register_memory(region, arena.memory)
        scratch = [(self._scratch.ctypes.data, SCRATCH_BYTES, 0, "")]
        self._agent.register_memory(scratch, "DRAM")
        self._local = LocalLists(self._agent, self._arenas)
        self._staging = StagingPool(self._agent, self._codecs)

    def endpoint_metadata(self) -> bytes:
        return self._endpoint().pack(bytes(self._agent.get_agent_metadata()))

    def _endpoint(self) -> Endpoint:
        return here(self._scratch.ctypes.data)

    def connect(
        self,
        peer: str,
        shards: Sequence[PeerShard],
        measured: Callable[[LinkInfo], None] | None = None,
    ) -> None:
        self.disconnect(peer)
        assert self._local is not None and self._staging is not None, "registered, not closed"
        theirs = [arena for shard in shards for arena in shard.arenas]
        algorithm = common_algorithm(list(self._arenas.values()), theirs)
        sender = NixlSender(
            peer,
            self._agent,
            self._arenas,
            NixlPeer(self._agent, self._local, self._arenas, shards, self._endpoint()),
            WriteChecker(self._arenas, shards, self.codecs),
            RecordWriter(self._codecs, self._arenas, self._staging),
            algorithm if self._checksums else None,
            measured,
        )
        sender.start()
        self._senders[peer] = sender

    def disconnect(self, peer: str) -> None:
        sender = self._senders.pop(peer, None)
        if sender is not None:
            sender.stop()
            self._leaving = [*(s for s in self._leaving if s.is_alive()), sender]

    def expect(self, key: Key, groups: Sequence[ReservedGroup]) -> None:
        """Writes are one-sided."""

    def unexpect(self, key: Key) -> None:
        """Nor can they be refused."""

    def send(
        self,
        peer: str,
        writes: Sequence[BlockWrite],
        done: Callable[[WriteResult], None],
        timeout_s: float,
    ) -> None:
        sender = self._senders.get(peer)
        if sender is None:
            raise HandoffError(f"not connected to {peer}")
        sender.put(writes, done, timeout_s)

    def recreate(self) -> None:
        self._destroy()
        self.transport_epoch += 1
        self._agent = _new_agent(self.agent_name)
        self.register(list(self._arenas.values()), self._codecs)

    def close(self) -> None:
        if self._agent is None:
            return
        try:
            self._destroy()
        except HandoffError as error:
            # The process is about to go, and its threads are daemons.
            logging.getLogger(__name__).warning("closing: %s", error)

    def _destroy(self) -> None:
        """Drop the agent and all that refers to it, which closes its connections."""
        for peer in list(self._senders):
            self.disconnect(peer)
        give_up = time.monotonic() + STOP_WAIT_S
        for sender in self._leaving:
            sender.join(max(0.0, give_up - time.monotonic()))
        if any(sender.is_alive() for sender in self._leaving):
            raise HandoffError("a write hangs inside NIXL, so its agent cannot be destroyed")
        self._leaving.clear()
        self._local = None
        # Not freed before the agent is.
        staged = self._staging.memory if self._staging is not None else []
        self._staging = None
        self._agent = None
        # The agent and its handles may sit in a cycle of some exception's traceback.
        gc.collect()
        staged.clear()


def fences_node(ucx_tls: str | None) -> bool:
    """Whether UCX_TLS keeps peers on this node from copying into our memory by themselves."""
    names = {name.strip() for name in (ucx_tls or "all").lstrip("^").split(",")}
    if ucx_tls and ucx_tls.startswith("^"):
        host = names >= _HOST_COPIES or names & _HOST_ALIASES
        device = names & (_DEVICE_COPIES | _DEVICE_ALIASES)
        return bool(host and device)
    copies = _HOST_COPIES | _HOST_ALIASES | _DEVICE_COPIES | _DEVICE_ALIASES
    return not names & (copies | {"all"})


def _configure_ucx(settings: TransferSettings) -> None:
    """UCX and NIXL read these when they load. Both print to the terminal unless told not to."""
    if settings.ucx_net_devices:
        os.environ["UCX_NET_DEVICES"] = settings.ucx_net_devices
    if settings.ucx_tls:
        os.environ["UCX_TLS"] = settings.ucx_tls
    os.environ.setdefault("UCX_LOG_LEVEL", "fatal")
    os.environ.setdefault("NIXL_LOG_LEVEL", "FATAL")


def _new_agent(name: str) -> Any:
    raise_exceptions = logging.raiseExceptions
    # Loaded late, so that the variables above count and other transports go without.
    from nixl._api import nixl_agent, nixl_agent_config, nixl_thread_sync_t

    # Loading it turned this off for the whole process.
    logging.raiseExceptions = raise_exceptions
    config = nixl_agent_config(backends=["UCX"], sync_mode=nixl_thread_sync_t.NIXL_THREAD_SYNC_RW)
    # The class hard-codes a delay of 0, with which the agent's progress thread takes a whole core.
    bindings = sys.modules[nixl_agent.__module__].nixlBind
    make_agent = bindings.nixlAgent

    def make_patient_agent(agent_name: str, agent_config: Any) -> Any:
        agent_config.pthrDelay = PROGRESS_DELAY_US
        return make_agent(agent_name, agent_config)

    bindings.nixlAgent = make_patient_agent
    try:
        return nixl_agent(name, config)
    finally:
        bindings.nixlAgent = make_agent
