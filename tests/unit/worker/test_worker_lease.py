"""What a worker says of itself in the store."""

from __future__ import annotations

import os

from baton.core.kv import GroupSpec
from baton.core.settings import Settings
from baton.transfer.inproc import InprocTransport
from baton.v1 import common_pb2
from baton.worker.config import WorkerConfig, WorkerGroups
from baton.worker.lease import worker_lease

ME = common_pb2.WorkerRef(worker_id="w", epoch=3, address="127.0.0.1:9")
FULL = GroupSpec("full", 3, 2, 8, 8, 16, "float32")
WINDOW = GroupSpec("window", 2, 4, 8, 8, 16, "float32", window=32)


def lease(transport: InprocTransport, role: str = "decode") -> common_pb2.WorkerLease:
    config = WorkerConfig(
        settings=WorkerGroups.model_validate(Settings().model_dump()),
        role=role,
        worker_id="w",
        model_folder=None,
        model_name="m",
        store_url="",
        token="t",
        num_threads=1,
    )
    return worker_lease(
        ME,
        config,
        digest="d",
        tokenizer="t",
        groups=(FULL, WINDOW),
        num_blocks=64,
        max_model_len=512,
        transport=transport,
    )


def test_lease_says_what_the_worker_can_hold_and_who_moves_its_kv() -> None:
    said = lease(InprocTransport("w"))
    assert (said.worker, said.role, said.pid) == (ME, common_pb2.WORKER_ROLE_DECODE, os.getpid())
    assert (said.capacity.num_blocks, said.capacity.block_size) == (64, 16)
    assert [group.num_layers for group in said.groups] == [3, 2]
    (shard,) = said.shards
    assert (shard.agent_name, shard.num_layers, shard.num_kv_heads) == ("w.1", 5, 4)


def test_agent_that_was_made_anew_is_named_anew() -> None:
    transport = InprocTransport("w")
    transport.register([])
    lease(transport)
    transport.recreate()
    assert [shard.agent_name for shard in lease(transport).shards] == [transport.agent_name]
    transport.close()
