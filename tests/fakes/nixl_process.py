"""Other processes for NIXL tests: one that only owns memory, and one that is a whole worker."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from baton.core.handoff import BlocksReady, ReservedGroup, SourceOutput
from baton.core.settings import TransferSettings
from baton.transfer.base import Transport
from baton.transfer.dist import DistTransport
from baton.transfer.nixl import NixlTransport
from baton.v1 import common_pb2
from fakes.transfer import FakeWorker, due_of, fill, make_arena, make_request

BLOCK_BYTES = 64 * 1024
_spawn = multiprocessing.get_context("spawn")


class Child:
    """A process that answers commands over a pipe, and that this test may freeze and kill."""

    def __init__(self, main: Callable[..., None], *args: object) -> None:
        self._pipe, theirs = _spawn.Pipe()
        self.process = _spawn.Process(target=main, args=(theirs, *args), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def ask(self, *command: object, timeout_s: float = 30.0) -> Any:
        """Send a command and wait for its answer."""
        self.send(*command)
        return self.answer(timeout_s)

    def send(self, *command: object) -> None:
        """Send a command whose answer is waited for later."""
        self._pipe.send(command)

    def answer(self, timeout_s: float = 30.0) -> Any:
        assert self._pipe.poll(timeout_s), "the other process does not answer"
        return self._pipe.recv()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """As the kernel's memory killer would, and reap it."""
        self.process.kill()
        self.process.join(10)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError, ValueError):
            self.thaw()
        if self.process.is_alive():
            self.kill()
        self.process.close()
        self._pipe.close()


@contextlib.contextmanager
def child(main: Callable[..., None], *args: object) -> Iterator[Child]:
    """A child for the length of a with statement."""
    it = Child(main, *args)
    try:
        yield it
    finally:
        it.close()


# --- memory that others write to ---


def make_transport(name: str, settings: TransferSettings) -> Transport:
    """The one that the settings name."""
    if settings.transport == "dist":
        return DistTransport(name, "127.0.0.1", settings)
    return NixlTransport(name, settings)


def memory_main(pipe: Connection, num_blocks: int, settings: dict[str, Any]) -> None:
    """Owns an arena and an agent. Commands: blocks, zero, recreate, time_recreate."""
    arena = make_arena(num_blocks, BLOCK_BYTES)
    transport = make_transport(f"memory-{os.getpid()}", TransferSettings(**settings))
    transport.register([arena])
    everything = [ReservedGroup(tuple(range(num_blocks)), (0,) * num_blocks, frozenset())]
    transport.expect(("t", 0), everything)
    pipe.send((transport.endpoint_metadata(), arena.address))
    while True:
        command, *args = pipe.recv()
        if command == "blocks":
            pipe.send(arena.view[args[0]].copy())
        elif command == "num_written":
            pipe.send(int(arena.view.any(axis=1).sum()))
        elif command == "zero":
            arena.view[:] = 0
            pipe.send(None)
        elif command == "recreate":
            began = time.perf_counter()
            transport.recreate()
            transport.expect(("t", 0), everything)
            arena.view[:] = 0
            pipe.send((transport.endpoint_metadata(), time.perf_counter() - began))


# --- a whole worker ---


def worker_main(pipe: Connection, name: str, epoch: int, settings: dict[str, Any]) -> None:
    """A FakeWorker with NIXL. Every command is a method of `_Commands`."""
    asyncio.run(_serve(pipe, name, epoch, TransferSettings(**settings)))


async def _serve(pipe: Connection, name: str, epoch: int, settings: TransferSettings) -> None:
    transport = make_transport(f"{name}-{epoch}", settings)
    arena = make_arena(32, BLOCK_BYTES)
    worker = FakeWorker(name, epoch=epoch, settings=settings, transport=transport, arena=arena)
    await worker.start()
    pipe.send(worker.ref.SerializeToString())
    commands = _Commands(worker)
    while True:
        name, *args = await asyncio.to_thread(pipe.recv)
        pipe.send(getattr(commands, name)(*args))


class _Commands:
    def __init__(self, worker: FakeWorker) -> None:
        self._worker = worker

    def start_source(self, handoff_id: bytes, number: int, num_tokens: int, peer: bytes) -> None:
        """Begin a handoff to `peer` and offer it; source block i holds offered index i."""
        request = make_request(num_tokens, seed=number)
        key = ("s", number)
        ref = common_pb2.WorkerRef.FromString(peer)
        self._worker.handoffs.start_source(handoff_id, key, request, 1, ref)
        fill(self._worker.arena, range(32), number)
        self._worker.handoffs.offer(due_of(key, request))

    def start_target(self, handoff_id: bytes, number: int, num_tokens: int, peer: bytes) -> None:
        request = make_request(num_tokens, seed=number)
        ref = common_pb2.WorkerRef.FromString(peer)
        self._worker.handoffs.start_target(handoff_id, ("t", number), request, 1, ref)

    def ready(self, number: int, first: int, count: int, done: bool) -> None:
        ids = tuple(range(first, first + count))
        outputs = {0: SourceOutput((7,), None)} if done else None
        ready = BlocksReady(("s", number), (first,), (ids,), done)
        self._worker.handoffs.blocks_ready(ready, outputs)

    def cancel(self, side: str, number: int) -> None:
        self._worker.handoffs.cancel((side, number), "test")

    def state(self) -> dict[str, Any]:
        """What its host has seen."""
        host = self._worker.host
        return {
            "handed": sorted(host.handed),
            "failures": {key: error.message for key, error in host.failures.items()},
            "released": list(host.released),
            "num_free": len(host.free),
            "reserved": dict(host.reserved),
            "quarantined": dict(host.quarantined),
        }

    def blocks(self, ids: list[int]) -> np.ndarray:
        held: np.ndarray = self._worker.arena.view[ids].copy()
        return held
