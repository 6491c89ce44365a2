"""Two processes at the ends of bare NIXL writes: one owns memory, the other writes to all of it."""

from __future__ import annotations

import os
import queue
from multiprocessing.connection import Connection
from typing import Any

from baton.core.kv import Arena, whole_slice
from baton.core.settings import TransferSettings
from baton.transfer.base import BlockWrite, PeerShard, WriteResult
from baton.transfer.nixl import NixlTransport
from baton.transfer.preflight import unpack
from fakes.transfer import GROUP, make_arena

NUM_BLOCKS = 512
# Two pieces of a write, see `nixl_sender`.
BLOCK_BYTES = 256 * 1024


def owner_main(pipe: Connection, settings: dict[str, Any]) -> None:
    """Owns an arena. It may withdraw it in every way that there is, and looks at what comes."""
    arena = make_arena(NUM_BLOCKS, BLOCK_BYTES)
    transport = NixlTransport(f"owner-{os.getpid()}", TransferSettings(**settings))
    transport.register([arena])
    pipe.send((transport.endpoint_metadata(), arena.address))
    peer = ""
    while True:
        command, *args = pipe.recv()
        answer: object = None
        agent = transport._agent
        if command == "know":
            peer = agent.add_remote_agent(unpack(args[0])[1])
        elif command == "deregister":
            region = [(arena.address, NUM_BLOCKS * BLOCK_BYTES, 0, "")]
            agent.deregister_memory(agent.get_reg_descs(region, "DRAM"))
        elif command == "remove_peer":
            agent.remove_remote_agent(peer)
        elif command == "recreate":
            transport.recreate()
            answer = transport.recreate_fences_node
        elif command == "zero":
            arena.view[:] = 0
        elif command == "num_written":
            # One byte each: the whole of it takes too long to catch a write half way.
            answer = int(arena.view[:, -1].astype(bool).sum())
        pipe.send(answer)


def writer_main(pipe: Connection, settings: dict[str, Any], metadata: bytes, address: int) -> None:
    """Writes all of its arena to all of the owner's when told to; the answer is how that ended."""
    arena = make_arena(NUM_BLOCKS, BLOCK_BYTES)
    arena.view[:] = 1
    transport = NixlTransport(f"writer-{os.getpid()}", TransferSettings(**settings))
    transport.register([arena])
    held = whole_slice(GROUP)
    remote = Arena(0, address, NUM_BLOCKS, BLOCK_BYTES, "DRAM", 0, None, held)
    transport.connect("owner", [PeerShard(metadata, (remote,))])
    results: queue.Queue[WriteResult] = queue.Queue()
    everything = tuple(range(NUM_BLOCKS))
    pipe.send(transport.endpoint_metadata())
    while True:
        ids = everything[: pipe.recv()[0]]
        transport.send("owner", [BlockWrite(0, ids, ids)], results.put, 30.0)
        result = results.get()
        pipe.send((result.error, result.quiesced))
