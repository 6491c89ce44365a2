"""Transport over NIXL (UCX): RDMA, shared memory, CUDA IPC or TCP, whichever UCX finds.

One agent's memory is written to, another writes. The first needs a progress thread, for nobody here
looks when a peer writes. The second has none: a sender's thread looks all the time, and two threads
that drive one UCX worker are in each other's way (on 2 cores that took a quarter to half of the
rate, over shared memory and TCP alike).

Arenas are registered once with each. Lists of all blocks are prepared once per pair (`nixl_peer`),
so that a write is two arrays of indices.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from baton.core.errors import HandoffError
from baton.core.handoff import Key, ReservedGroup
from baton.core.kv import Arena
from baton.core.settings import TransferSettings
from baton.transfer.base import (
    BlockWrite,
    LinkInfo,
    PeerShard,
    WriteResult,
)
from baton.transfer.checksum import common_algorithm
from baton.transfer.codec import Codec
from baton.transfer.nixl_peer import LocalLists, NixlPeer, RemoteAgents
from baton.transfer.nixl_records import RecordWriter
from baton.transfer.nixl_sender import NixlSender
from baton.transfer.nixl_staging import StagingPool
from baton.transfer.preflight import SCRATCH_BYTES, Endpoint, here
from baton.transfer.sender import Senders
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
    """Two NIXL agents with the UCX backend, see `base.Transport`.

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
        self._remotes: RemoteAgents | None = None
        self._staging: StagingPool | None = None
        self._senders: Senders[NixlSender] = Senders()
        self._agent: Any
        self._writer: Any
        self._make_agents()
        # Nobody reads what peers write here; it tells them how fast they can.
        self._scratch = np.zeros(SCRATCH_BYTES, np.uint8)

    def _make_agents(self) -> None:
        self._agent = _new_agent(self.agent_name, receives=True)
        self._writer = _new_agent(f"{self.agent_name}.writer", receives=False)

    @property
    def agent_name(self) -> str:
        """Of the agent that peers write to."""
        return f"{self._prefix}.{self.transport_epoch}"

    @property
    def codecs(self) -> tuple[str, ...]:
        return tuple(codec.name for codec in self._codecs[:1])

    def register(self, arenas: Sequence[Arena], codecs: Sequence[Codec] = ()) -> None:
        self._arenas = {arena.group: arena for arena in arenas}
        self._codecs = tuple(codecs)
        for arena in arenas:
            length = arena.num_blocks * arena.block_bytes
            self._register([(arena.address, length, arena.device_id, "")], arena.memory)
        self._register([(self._scratch.ctypes.data, SCRATCH_BYTES, 0, "")], "DRAM")
        self._local = LocalLists(self._writer, self._arenas)
        self._remotes = RemoteAgents(self._writer)
        self._staging = StagingPool(self._writer, self._codecs)

    def _register(self, region: list[tuple[int, int, int, str]], memory: str) -> None:
        for agent in (self._agent, self._writer):
            agent.register_memory(region, memory)

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
        local, remotes, staging = self._local, self._remotes, self._staging
        assert local and remotes and staging, "registered, not closed"
        theirs = [arena for shard in shards for arena in shard.arenas]
        algorithm = common_algorithm(list(self._arenas.values()), theirs)
        sender = NixlSender(
            peer,
            self._writer,
            self._arenas,
            NixlPeer(self._writer, remotes, local, self._arenas, shards, self._endpoint()),
            WriteChecker(self._arenas, shards, self.codecs),
            RecordWriter(self._codecs, self._arenas, staging),
            algorithm if self._checksums else None,
            measured,
        )
        self._senders.start(peer, sender)

    def disconnect(self, peer: str) -> None:
        self._senders.stop(peer)

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
        self._senders.put(peer, writes, done, timeout_s)

    def recreate(self) -> None:
        self._destroy()
        self.transport_epoch += 1
        self._make_agents()
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
        """Drop the agents and all that refers to them, which closes their connections."""
        self._senders.stop_all()
        if not self._senders.join(STOP_WAIT_S):
            raise HandoffError("a write hangs inside NIXL, so its agent cannot be destroyed")
        self._local = self._remotes = None
        # Not freed before its agent is.
        staged = self._staging.memory if self._staging is not None else []
        self._staging = None
        self._agent = self._writer = None
        # They and their handles may sit in a cycle of some exception's traceback.
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


def _new_agent(name: str, *, receives: bool) -> Any:
    raise_exceptions = logging.raiseExceptions
    # Loaded late, so that the variables above count and other transports go without.
    from nixl._api import nixl_agent, nixl_agent_config, nixl_thread_sync_t

    # Loading it turned this off for the whole process.
    logging.raiseExceptions = raise_exceptions
    config = nixl_agent_config(
        enable_prog_thread=receives,
        backends=["UCX"],
        sync_mode=nixl_thread_sync_t.NIXL_THREAD_SYNC_RW,
    )
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
