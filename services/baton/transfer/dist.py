"""Transport over torch.distributed: two-sided, where NIXL is not to be had.

Bytes go by gloo over TCP, through host memory; between two GPUs' arenas by NCCL, which has never
been run: it needs two GPUs, for it refuses two ranks on one. Gloo encrypts and authenticates
nothing: only the key prefix that a Hello brings, on an authenticated call, leads to a channel;
networks that others listen on are not for it (nor for UCX).

What a target has not granted does not land, see `dist_receiver`, so the quarantine of its blocks
guards against nothing but a source's own mistakes. `recreate` ends all channels and the threads
that copy from them, which fences every peer, those of this node too.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence

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
from baton.transfer.dist_receiver import DistReceiver
from baton.transfer.dist_sender import DistSender
from baton.transfer.sender import Senders

STOP_WAIT_S = 10.0


class DistTransport:
    """See `base.Transport`. `host` is the address that peers reach this process at."""

    name = "dist"
    recreate_fences_node = True

    def __init__(self, agent_name: str, host: str, settings: TransferSettings) -> None:
        self._prefix = agent_name
        self._host = host
        self._checksums = settings.checksum == "always"
        self.transport_epoch = 1
        self._arenas: dict[int, Arena] = {}
        self._receiver: DistReceiver | None = None
        self._senders: Senders[DistSender] = Senders()

    @property
    def agent_name(self) -> str:
        return f"{self._prefix}.{self.transport_epoch}"

    def register(self, arenas: Sequence[Arena], codecs: Sequence[Codec] = ()) -> None:
        self._arenas = {arena.group: arena for arena in arenas}
        self._receiver = self._receive()

    @property
    def codecs(self) -> tuple[str, ...]:
        """None: blocks go plain."""
        return ()

    def _receive(self) -> DistReceiver:
        return DistReceiver(self._prefix, self._host, self._arenas, secrets.token_hex(16))

    @property
    def _here(self) -> DistReceiver:
        assert self._receiver is not None, "registered and not closed"
        return self._receiver

    def endpoint_metadata(self) -> bytes:
        return self._here.endpoint.pack()

    def connect(
        self,
        peer: str,
        shards: Sequence[PeerShard],
        measured: Callable[[LinkInfo], None] | None = None,
    ) -> None:
        theirs = [arena for shard in shards for arena in shard.arenas]
        algorithm = common_algorithm(list(self._arenas.values()), theirs)
        sender = DistSender(
            peer,
            self.agent_name,
            self._host,
            self._arenas,
            shards,
            algorithm if self._checksums else None,
            measured,
        )
        self._senders.start(peer, sender)

    def disconnect(self, peer: str) -> None:
        self._senders.stop(peer)

    def expect(self, key: Key, groups: Sequence[ReservedGroup]) -> None:
        self._here.landing.expect(key, groups)

    def unexpect(self, key: Key) -> None:
        self._here.landing.unexpect(key)

    def send(
        self,
        peer: str,
        writes: Sequence[BlockWrite],
        done: Callable[[WriteResult], None],
        timeout_s: float,
    ) -> None:
        self._senders.put(peer, writes, done, timeout_s)

    def recreate(self) -> None:
        """Also forgets what was expected: all handoffs fail with the agent."""
        self._destroy()
        self.transport_epoch += 1
        self._receiver = self._receive()

    def close(self) -> None:
        if self._receiver is None:
            return
        try:
            self._destroy()
        except HandoffError as error:
            # The process is about to go, and its threads are daemons.
            logging.getLogger(__name__).warning("closing: %s", error)

    def _destroy(self) -> None:
        self._senders.stop_all()
        self._here.close()
        self._receiver = None
        # One that hangs cannot write to us; it is left behind.
        self._senders.join(STOP_WAIT_S)
