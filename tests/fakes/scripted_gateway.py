"""Real worker processes, and a gateway that does just what a test tells it to.

It speaks the session protocol with each worker and leaves every decision, moves above all, to the
test. A `Stream` is one request's output, wherever its rows come from.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from baton.store.embedded_server import EmbeddedStoreServer
from baton.telemetry import rpc
from baton.v1 import (
    common_pb2,
    session_pb2,
    worker_pb2,
)
from baton.wire.streams.client import ask, dial
from baton.wire.streams.methods import DRAIN, SESSION
from baton.wire.streams.status import StreamError
from baton.wire.version import PROTOCOL_MAX
from fakes.deployment import MORTAL_WORKER

Event = session_pb2.SlotEvent
TOKEN = "scripted-token"
START_S = 90.0


@dataclass(eq=False)
class Stream:
    """One request's tokens by position, and when each came first."""

    prompt: tuple[int, ...]
    sampling: dict[str, Any]
    seed: int
    num_choices: int = 1
    tokens: dict[int, int] = field(default_factory=dict)
    came_at: dict[int, float] = field(default_factory=dict)
    # Worker to the first position that came from it.
    first_from: dict[str, int] = field(default_factory=dict)
    ended: bool = False
    # (worker, slot, event) of all its slots.
    events: list[tuple[str, int, Event]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def row(self, worker: str, position: int, token: int, flags: int) -> None:
        self.first_from.setdefault(worker, position)
        known = self.tokens.setdefault(position, token)
        assert known == token, "two workers disagree"
        self.came_at.setdefault(position, time.monotonic())
        self.ended = self.ended or bool(flags)
        self.news.set()

    @property
    def output(self) -> list[int]:
        """The tokens so far without a gap."""
        count = 0
        while count in self.tokens:
            count += 1
        return [self.tokens[i] for i in range(count)]

    def kinds(self, worker: str) -> list[int]:
        return [event.kind for name, _, event in self.events if name == worker]

    async def until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                self.news.clear()
                await self.news.wait()

    async def until_tokens(self, count: int) -> None:
        await self.until(lambda: len(self.output) >= count)

    async def end(self) -> list[int]:
        await self.until(lambda: self.ended and len(self.output) == len(self.tokens))
        return self.output

    def gaps(self) -> list[float]:
        """Seconds between one token and the next."""
        times = [self.came_at[i] for i in sorted(self.came_at)]
        return [after - before for before, after in pairwise(times)]


class WorkerProcess:
    """A worker, and this gateway's session with it."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.process, self._log = name, process, log
        self.load = session_pb2.Load()
        self.slots: dict[int, Stream] = {}
        self.num_blocks = 0
        self._next_slot = 0
        self._news = asyncio.Event()

    async def connect(self, lease: common_pb2.WorkerLease) -> None:
        self.ref = lease.worker
        self._dialled = dial(self.ref.address, TOKEN, SESSION)
        self._stream = await self._dialled.__aenter__()
        opening = session_pb2.Open(session_id=secrets.token_hex(8), protocol=PROTOCOL_MAX)
        await self._say(open=opening)
        await self._stream.read()
        self._reader = asyncio.create_task(self._read())

    async def _say(self, **message: Any) -> None:
        self._stream.send(session_pb2.SessionRequest(**message))

    async def _read(self) -> None:
        # The stream ends with the worker.
        with contextlib.suppress(StreamError):
            async for response in self._stream:
                frame = response.frame
                if frame.HasField("load"):
                    self.load = frame.load
                    self._news.set()
                for slot, position, token, flags in zip(
                    frame.slot, frame.position, frame.token, frame.flags, strict=True
                ):
                    if slot in self.slots:
                        self.slots[slot].row(self.name, position, token, flags)
                for event in frame.events:
                    if event.slot in self.slots:
                        stream = self.slots[event.slot]
                        stream.events.append((self.name, event.slot, event))
                        stream.news.set()

    async def submit(
        self, stream: Stream, handoff: session_pb2.HandoffRole | None = None, attempt: int = 1
    ) -> int:
        """Place a stream here, with the output that it has."""
        self._next_slot += 1
        slot = self._next_slot
        self.slots[slot] = stream
        submit = session_pb2.Submit(
            slot=slot,
            request_id=f"r{stream.seed}",
            attempt=attempt,
            model="baton-tiny",
            prompt=[session_pb2.PromptSegment(token_ids=session_pb2.TokenIds(ids=stream.prompt))],
            choices=[
                session_pb2.Choice(index=i, output_so_far=stream.output)
                for i in range(stream.num_choices)
            ],
            sampling=common_pb2.SamplingParams(**{"top_p": 1.0, **stream.sampling}),
            seed=stream.seed,
            remaining_ms=120_000,
            handoff=handoff,
        )
        await self._say(submits=[submit])
        return slot

    async def migrate(self, slot: int, position: int, handoff_id: bytes, to: WorkerProcess) -> None:
        migrate = session_pb2.Migrate(
            slot=slot, next_position=position, handoff_id=handoff_id, peer=to.ref
        )
        await self._say(migrates=[migrate])

    async def cancel(self, slot: int) -> None:
        await self._say(cancels=[session_pb2.Cancel(slot=slot)])

    async def forget_all(self) -> None:
        await self._say(forget=session_pb2.Forget(slots=list(self.slots)))
        self.slots.clear()

    async def all_free(self) -> None:
        """Until nothing runs, is reserved or in quarantine, and all blocks are free."""
        await self.until(
            lambda load: (
                not (
                    load.num_running
                    or load.reserved_blocks
                    or load.quarantined_blocks
                    or load.free_blocks != self.num_blocks
                )
            )
        )

    async def until(self, condition: Callable[[session_pb2.Load], bool]) -> None:
        """Wait for a load that it says it has."""
        async with asyncio.timeout(60):
            while not condition(self.load):
                self._news.clear()
                await self._news.wait()

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    async def close(self) -> None:
        self._reader.cancel()
        await self._dialled.__aexit__(None, None, None)


class ScriptedGateway:
    """`async with ScriptedGateway.start(...)`: workers by name."""

    def __init__(self) -> None:
        self.workers: dict[str, WorkerProcess] = {}
        self._dir = Path(tempfile.mkdtemp(prefix="baton-test-"))

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls, *names: str, mortal: dict[str, str] | None = None, **environment: str
    ) -> AsyncIterator[ScriptedGateway]:
        """`mortal` names the step at which a worker dies, see `mortal_worker`."""
        self = cls()
        server = rpc.server(TOKEN)
        store = EmbeddedStoreServer()
        store.add_to_server(server)
        port = rpc.listen(server, "127.0.0.1", 0)
        await server.start()
        token_file = self._dir / "token"
        token_file.write_text(TOKEN)
        token_file.chmod(0o600)
        try:
            for name in names:
                self._spawn(name, (mortal or {}).get(name, ""), port, token_file, environment)
            for worker in self.workers.values():
                await self._connect(worker, f"grpc://127.0.0.1:{port}")
            yield self
        finally:
            for worker in self.workers.values():
                with contextlib.suppress(Exception):
                    await worker.close()
                worker.process.send_signal(signal.SIGCONT)
                worker.process.kill()
                worker.process.wait()
            await server.stop(0)
            store.close()

    def _spawn(
        self, name: str, mortal: str, port: int, token_file: Path, environment: dict[str, str]
    ) -> None:
        program = (str(MORTAL_WORKER), mortal) if mortal else ("-m", "baton.cli.main")
        log = self._dir / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [
                    sys.executable,
                    *program,
                    "worker",
                    *("--role", "decode", "--worker-id", name),
                    *("--store", f"grpc://127.0.0.1:{port}", "--token-file", str(token_file)),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={
                    **{k: v for k, v in os.environ.items() if not k.startswith("BATON_")},
                    "BATON_LOG__LEVEL": "info",
                    **environment,
                },
                start_new_session=True,
            )
        self.workers[name] = WorkerProcess(name, process, log)

    async def _connect(self, worker: WorkerProcess, url: str) -> None:
        from baton.store.connect import open_store

        store = open_store(url, TOKEN, "baton")
        deadline = time.monotonic() + START_S
        try:
            while True:
                found = await store.list(f"workers/{worker.name}")
                if found:
                    break
                assert worker.process.poll() is None, worker.log()
                assert time.monotonic() < deadline, worker.log()
                await asyncio.sleep(0.05)
        finally:
            await store.close()
        lease = common_pb2.WorkerLease.FromString(next(iter(found.values())))
        worker.num_blocks = lease.capacity.num_blocks
        await worker.connect(lease)

    async def move(self, stream: Stream, slot: int, origin: str, heir: str) -> int:
        """Submit to the heir and tell the origin; returns the heir's slot."""
        source, target = self.workers[origin], self.workers[heir]
        handoff_id = secrets.token_bytes(16)
        position = len(stream.output)
        new_slot = await target.submit(
            stream,
            session_pb2.HandoffRole(
                side=session_pb2.HandoffRole.SIDE_TARGET, handoff_id=handoff_id, peer=source.ref
            ),
        )
        await source.migrate(slot, position, handoff_id, target)
        return new_slot

    async def drain(self, name: str) -> int:
        drain = worker_pb2.DrainRequest(reason="a test")
        answer = await ask(self.workers[name].ref.address, TOKEN, DRAIN, drain, 30.0)
        return int(answer.num_running)
