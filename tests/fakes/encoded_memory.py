"""A process that owns memory for encoded blocks. Here because a child finds it by its name."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection

import numpy as np

from baton.core.kv import Arena, GroupSpec, whole_slice
from baton.core.settings import TransferSettings
from baton.transfer.nixl import NixlTransport
from baton.transfer.state import BlockCheck
from baton.transfer.verifier import Check
from baton.transfer.wire_codec import wire_codecs

SPEC = GroupSpec("full", 4, 2, 64, 64, 16, "float32")
NUM_BLOCKS = 600
# TCP semantics: no process copies by itself.
WIRE = TransferSettings(codec="int8", ucx_tls="tcp,self")


def make_memory() -> Arena:
    view = np.zeros((NUM_BLOCKS, SPEC.block_bytes), np.uint8)
    size = (NUM_BLOCKS, SPEC.block_bytes)
    return Arena(0, view.ctypes.data, *size, "DRAM", 0, view, whole_slice(SPEC))


def memory_main(pipe: Connection) -> None:
    """Owns an arena and an agent. Commands: check, blocks, flip, recreate."""
    arena = make_memory()
    codecs = wire_codecs(WIRE, [SPEC], [arena])
    transport = NixlTransport(f"int8-memory-{os.getpid()}", WIRE)
    transport.register([arena], codecs)
    pipe.send((transport.endpoint_metadata(), arena.address))
    while True:
        command, *args = pipe.recv()
        if command == "check":
            pipe.send(Check([arena], codecs, [BlockCheck(0, *args)]).run())
        elif command == "blocks":
            pipe.send(arena.view[args[0]].copy())
        elif command == "flip":
            arena.view[args[0], args[1]] ^= 1
            pipe.send(None)
        elif command == "recreate":
            transport.recreate()
            arena.view[:] = 0
            pipe.send(transport.endpoint_metadata())
