"""One rank of a divided worker in a process of its own: an arena, a NIXL agent, no model."""

from __future__ import annotations

import os
import queue
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from baton.core.kv import Arena, ShardSlice
from baton.core.settings import TransferSettings
from baton.transfer.base import BlockWrite, PeerShard, WriteResult
from baton.transfer.checksum import block_checksums
from baton.transfer.nixl import NixlTransport
from baton.transfer.relayout import checksum_runs
from fakes.ranks import HEAD_BYTES, rank_arena, whole_blocks

NUM_BLOCKS = 8
# What a rank tells others: its agent, where its arena is, what it holds.
Address = tuple[bytes, int, ShardSlice]


def shard_of(address: Address) -> PeerShard:
    """A rank as others write to it."""
    metadata, start, held = address
    size = held.num_layers * held.num_heads * HEAD_BYTES
    return PeerShard(metadata, (Arena(0, start, NUM_BLOCKS, size, "DRAM", 0, None, held),))


def rank_main(pipe: Connection, held: ShardSlice, settings: dict[str, Any]) -> None:
    """Says its address, then answers commands: the methods of `_Rank`."""
    rank = _Rank(held, TransferSettings(**settings))
    pipe.send(rank.address())
    while True:
        name, *args = pipe.recv()
        pipe.send(getattr(rank, name)(*args))


class _Rank:
    def __init__(self, held: ShardSlice, settings: TransferSettings) -> None:
        self._arena = rank_arena(held, NUM_BLOCKS)
        self._transport = NixlTransport(f"rank-{os.getpid()}", settings)
        self._transport.register([self._arena])

    def address(self) -> Address:
        return self._transport.endpoint_metadata(), self._arena.address, self._arena.held

    def fill(self, seed: int) -> None:
        """This rank's share of blocks that all of the worker's ranks agree on."""
        held = self._arena.held
        for i, block in enumerate(whole_blocks(NUM_BLOCKS, seed)):
            self._arena.view[i] = block[slice(*held.layers), slice(*held.heads)].ravel()

    def connect(self, peer: list[Address]) -> None:
        self._transport.connect("peer", [shard_of(address) for address in peer])

    def write(self, local: list[int], remote: list[int], num_parts: int) -> list[WriteResult]:
        """Every part of these blocks; a result for each."""
        results: queue.Queue[WriteResult] = queue.Queue()
        for part in range(num_parts):
            write = BlockWrite(0, tuple(local), tuple(remote), part, num_parts)
            self._transport.send("peer", [write], results.put, 20.0)
        return [results.get(timeout=60) for _ in range(num_parts)]

    def blocks(self) -> np.ndarray:
        return self._arena.view.copy()

    def checksums(self, ids: list[int], writer: Address) -> list[int]:
        """Of what lies here of these blocks and came from this rank of the peer."""
        (runs,) = checksum_runs(self._arena, [shard_of(writer)])
        return block_checksums(self._arena, ids, "xxh3", runs)
