"""What a worker's lease says of it: the store's entry, by which gateways find and judge it."""

from __future__ import annotations

import os
import socket

import baton
from baton.core.kv import GroupSpec
from baton.transfer.base import Transport
from baton.transfer.layout import group_to_proto, whole_shard
from baton.v1 import common_pb2
from baton.wire.version import PROTOCOL_MAX, PROTOCOL_MIN
from baton.worker.config import WorkerConfig

_ROLES = {
    "prefill": common_pb2.WORKER_ROLE_PREFILL,
    "decode": common_pb2.WORKER_ROLE_DECODE,
    "any": common_pb2.WORKER_ROLE_ANY,
}


def worker_lease(
    me: common_pb2.WorkerRef,
    config: WorkerConfig,
    *,
    digest: str,
    tokenizer: str,
    groups: tuple[GroupSpec, ...],
    num_blocks: int,
    max_model_len: int,
    transport: Transport,
) -> common_pb2.WorkerLease:
    """For this process, now: the transport's agent has another name after a restart of its own.

    `num_blocks` are those of the first group.
    """
    engine, worker = config.settings.engine, config.settings.worker
    return common_pb2.WorkerLease(
        worker=me,
        role=_ROLES[config.role],
        model=config.model_name,
        digest=digest,
        protocol_min=PROTOCOL_MIN,
        protocol_max=PROTOCOL_MAX,
        shards=[whole_shard(transport.agent_name, groups)],
        groups=[group_to_proto(group) for group in groups],
        capacity=common_pb2.Capacity(
            num_blocks=num_blocks,
            block_size=groups[0].block_size,
            max_model_len=max_model_len,
            max_sequences=engine.max_sequences,
            max_batch_tokens=engine.max_batch_tokens,
        ),
        node=worker.node or socket.gethostname(),
        zone=worker.zone or "",
        fabric=worker.fabric or "",
        build=baton.__version__,
        pid=os.getpid(),
        transport=transport.name,
        revision=worker.revision or "",
        tokenizer=tokenizer,
    )
