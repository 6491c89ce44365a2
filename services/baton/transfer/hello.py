"""The first message each way: who speaks, what it speaks, and how to reach its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baton.core.errors import HandoffError
from baton.core.kv import Arena, GroupSpec
from baton.transfer.base import PeerShard, Transport
from baton.transfer.layout import (
    arena_to_proto,
    group_from_proto,
    group_to_proto,
    peer_shard,
    whole_shard,
)
from baton.transfer.process import ProcessRef, this_process
from baton.transfer.relayout import check_shards
from baton.v1 import common_pb2, transfer_pb2
from baton.wire.version import PROTOCOL_MAX, PROTOCOL_MIN, common_version


@dataclass(frozen=True, slots=True)
class PeerHello:
    """A peer's Hello, checked against our own."""

    worker_id: str
    epoch: int
    address: str
    process: ProcessRef
    transport_epoch: int
    shard: PeerShard

    @property
    def arenas(self) -> tuple[Arena, ...]:
        return self.shard.arenas


class Greeter:
    """Makes our Hello and judges those of peers. Any thread may call it."""

    def __init__(
        self,
        me: common_pb2.WorkerRef,
        digest: str,
        groups: Sequence[GroupSpec],
        arenas: Sequence[Arena],
        transport: Transport,
    ) -> None:
        self._me = me
        self._digest = digest
        self._groups = list(groups)
        self._arenas = list(arenas)
        self._transport = transport
        self.refresh()

    def refresh(self) -> None:
        """Take up the transport's new epoch, after it was recreated."""
        process = this_process()
        endpoint = transfer_pb2.ShardEndpoint(
            shard=whole_shard(self._transport.agent_name, self._groups),
            transport_epoch=self._transport.transport_epoch,
            metadata=self._transport.endpoint_metadata(),
            arenas=[arena_to_proto(arena) for arena in self._arenas],
        )
        hello = transfer_pb2.Hello(
            worker=self._me,
            digest=self._digest,
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_MAX,
            shards=[endpoint],
            groups=[group_to_proto(group) for group in self._groups],
            pid=process.pid,
            pid_start=process.start,
            node=process.node,
        )
        # Replaced as a whole: the asyncio thread reads it while this one runs.
        self.message = transfer_pb2.HandoffMessage(hello=hello)

    def check(self, message: transfer_pb2.HandoffMessage) -> PeerHello:
        """Read a peer's first message. Raises HandoffError, saying what does not fit."""
        if message.WhichOneof("body") != "hello":
            raise HandoffError("the first message of a handoff stream must be Hello")
        hello = message.hello
        name = hello.worker.worker_id or "the peer"
        if not hello.worker.worker_id or not hello.worker.epoch:
            raise HandoffError("Hello names no worker or no epoch")
        if hello.worker.worker_id == self._me.worker_id:
            raise HandoffError(f"{name} is this worker's own name; worker ids must differ")
        if common_version(hello.protocol_min, hello.protocol_max) is None:
            raise HandoffError(
                f"{name} speaks handoff protocol {hello.protocol_min} to {hello.protocol_max}, "
                f"{self._me.worker_id} speaks {PROTOCOL_MIN} to {PROTOCOL_MAX}; "
                "run builds that share a version"
            )
        if hello.digest != self._digest:
            raise HandoffError(
                f"{name} has KV digest {hello.digest}, {self._me.worker_id} has {self._digest}: "
                "model, dtype, block size or rope differ, so their KV does not mix"
            )
        if [group_from_proto(group) for group in hello.groups] != self._groups:
            raise HandoffError(f"{name} has the same digest but other attention groups")
        if len(hello.shards) != 1:
            # Transports write to any number; commits and their checks speak for one rank.
            raise HandoffError(f"{name} has {len(hello.shards)} shards; only one is served yet")
        endpoint = hello.shards[0]
        shard = peer_shard(endpoint, self._groups)
        check_shards(self._arenas, [shard])
        return PeerHello(
            worker_id=hello.worker.worker_id,
            epoch=hello.worker.epoch,
            address=hello.worker.address,
            process=ProcessRef(hello.pid, hello.pid_start, hello.node),
            transport_epoch=endpoint.transport_epoch,
            shard=shard,
        )
