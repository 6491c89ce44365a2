"""A worker without an engine: a real port and real Sessions, scripted tokens, faults.

It runs on the test's event loop. Tokens are a function of (seed, choice, position), as a real
engine's are, so a test can tell which it must get, whichever workers produced them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from baton.core.errors import BatonError, HandoffError, UnavailableError
from baton.core.handoff import Key
from baton.core.request import FinishReason, Request
from baton.core.settings import WorkerSettings
from baton.engine.outputs import TokenRow
from baton.v1 import common_pb2, session_pb2
from baton.wire.request import request_from_submit
from baton.wire.streams import methods
from baton.wire.streams.server import StreamServer
from baton.wire.version import PROTOCOL_MAX, PROTOCOL_MIN
from baton.worker.control import WorkerControl
from baton.worker.sessions import Sessions
from fakes.link import Link

TOKEN = "fake-deployment-token"
MODEL = "fake"
SlotEvent = session_pb2.SlotEvent
Side = session_pb2.HandoffRole.Side
# Steps after its commit at which a sequence that nobody has adopted is given up.
NO_VERDICT_STEPS = 100


def token_at(seed: int, choice: int, position: int) -> int:
    """What every fake worker generates there."""
    return (seed * 31 + choice * 1_000_003 + position * 7919) % 50_021


def tokens_of(seed: int, choice: int, count: int) -> list[int]:
    return [token_at(seed, choice, position) for position in range(count)]


@dataclass
class Network:
    """Where fake sources leave their handoffs for fake targets."""

    # handoff_id to the choices that go on, and how many tokens each has.
    committed: dict[bytes, Mapping[int, int]] = field(default_factory=dict)
    adopted: set[bytes] = field(default_factory=set)
    # Moves that the target refuses.
    refused: set[bytes] = field(default_factory=set)


@dataclass
class _Job:
    """A submission at work."""

    key: Key
    request: Request
    side: int
    handoff_id: bytes
    # Choice to the position that comes next.
    next: dict[int, int]
    scheduled: bool = False
    waits_for_accept: bool = False
    # While it is copied: the Migrate's id, and the step at which the copy has caught up.
    move_id: bytes = b""
    caught_up_at: int = 0


class FakeWorker:
    """`await start()`, then faults: `mute`, `late_first_token`, `link`, `fail_all`, `die`."""

    def __init__(
        self,
        worker_id: str,
        role: str = "any",
        *,
        network: Network | None = None,
        step_s: float = 0.001,
        digest: str = "digest",
        model: str = MODEL,
        max_running: int = 10_000,
        num_blocks: int = 100_000,
        session_grace_s: float = 5.0,
        copy_steps: int = 3,
        revision: str = "",
    ) -> None:
        self.worker_id = worker_id
        self.network = network or Network()
        self.step_s = step_s
        self.max_running = max_running
        self.num_blocks = num_blocks
        # Faults. mute: takes submissions and says nothing. late_first_token: a source's row comes
        # a few steps after its target has adopted.
        self.mute = False
        self.late_first_token = False
        # refuse_moves: takes none over. keep_last_rows: what it generates while it moves a sequence
        # never leaves.
        self.refuse_moves = False
        self.keep_last_rows = False
        self.draining = False
        self.leaving_in_ms = 0
        # Its process is to end: it cannot be undrained.
        self.is_leaving = False
        self.short_of_blocks = False
        self.free_blocks = num_blocks
        self.copy_steps = copy_steps
        # What came in.
        self.submits: list[session_pb2.Submit] = []
        self.migrates: list[session_pb2.Migrate] = []
        self.prefetches: list[session_pb2.Prefetch] = []
        self.cancelled: list[Key] = []
        self.jobs: dict[Key, _Job] = {}
        self._late: list[tuple[int, TokenRow]] = []
        self._steps = 0
        self._lease = common_pb2.WorkerLease(
            worker=common_pb2.WorkerRef(
                worker_id=worker_id, epoch=random.SystemRandom().getrandbits(63) | 1
            ),
            role=common_pb2.WorkerRole.Value(f"WORKER_ROLE_{role.upper()}"),
            model=model,
            digest=digest,
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_MAX,
            capacity=common_pb2.Capacity(
                num_blocks=num_blocks,
                block_size=16,
                max_model_len=100_000,
                max_sequences=max_running,
                max_batch_tokens=1024,
            ),
            node="here",
            pid=1,
            transport="inproc",
            revision=revision,
        )
        self._settings = WorkerSettings(session_grace_s=session_grace_s)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def lease(self) -> common_pb2.WorkerLease:
        return self._lease

    @property
    def lease_key(self) -> str:
        return f"workers/{self.worker_id}"

    async def start(self) -> FakeWorker:
        self._server = StreamServer("127.0.0.1", 0, TOKEN)
        self.link = Link(self._server.port)
        await self.link.open()
        self._lease.worker.address = f"127.0.0.1:{self.link.port}"
        self.sessions = Sessions(
            self._lease.worker,
            lambda: self._lease,
            self._submitted,
            self._cancel,
            self._migrate,
            self.prefetches.append,
            self._settings,
        )
        self._server.add(methods.SESSION, self.sessions.serve)
        control = WorkerControl(self._drain, self._undrain)
        self._server.add_single(methods.DRAIN, control.drain)
        self._server.add_single(methods.UNDRAIN, control.undrain)
        await self._server.start()
        self._task = asyncio.create_task(self._run())
        return self

    def _drain(self, within_s: float) -> int:
        self.draining, self.leaving_in_ms = True, int(within_s * 1000)
        return len(self.jobs)

    def _undrain(self) -> None:
        if self.is_leaving:
            raise UnavailableError("the worker is leaving")
        self.draining, self.leaving_in_ms = False, 0

    async def die(self) -> None:
        """As a killed process: connections break, new ones are refused."""
        if self._task is None:
            return
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        await self.link.close()
        await self._server.stop(0)
        self.sessions.close()

    stop = die

    def fail_all(self, error: BatonError) -> None:
        """Give up everything that is at work."""
        for key in list(self.jobs):
            self._fail(key, error)

    def say(self, *rows: TokenRow) -> None:
        """Publish rows of the test's own making."""
        self.sessions.publish(rows, [], None)

    # --- SessionService's side ---

    def _submitted(self, key: Key, submit: session_pb2.Submit) -> None:
        self.submits.append(submit)
        try:
            request = request_from_submit(submit, time.monotonic())
        except BatonError as error:
            self._fail(key, error)
            return
        self.jobs[key] = _Job(
            key,
            request,
            submit.handoff.side,
            submit.handoff.handoff_id,
            {choice: len(output) for choice, output in request.outputs.items()},
        )
        self._wake.set()

    def _migrate(self, key: Key, attempt: int, migrate: session_pb2.Migrate) -> None:
        self.migrates.append(migrate)
        job = self.jobs.get(key)
        if job is not None:
            job.move_id = migrate.handoff_id
            job.caught_up_at = self._steps + self.copy_steps

    def _cancel(self, key: Key) -> None:
        self.cancelled.append(key)
        self.jobs.pop(key, None)

    def _fail(self, key: Key, error: BatonError) -> None:
        self.jobs.pop(key, None)
        event = SlotEvent(
            kind=SlotEvent.KIND_FAILED,
            code=error.code,
            message=error.message,
            retryable=error.retryable,
        )
        self.sessions.publish([], [(key, event)], None)

    # --- the "engine" ---

    async def _run(self) -> None:
        while True:
            if not self.jobs or self.mute:
                self._publish([], [])
                self._wake.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await self._wake.wait()
                continue
            rows: list[TokenRow] = []
            events: list[tuple[Key, SlotEvent]] = []
            for job in list(self.jobs.values()):
                self._step(job, rows, events)
            self._steps += 1
            rows += [row for due, row in self._late if due <= self._steps]
            self._late = [(due, row) for due, row in self._late if due > self._steps]
            self._publish(rows, events)
            await asyncio.sleep(self.step_s)

    def _step(self, job: _Job, rows: list[TokenRow], events: list[tuple[Key, SlotEvent]]) -> None:
        if job.move_id and self._stands_still(job, events):
            return
        if job.waits_for_accept:
            is_late = any(row.key == job.key for _, row in self._late)
            if job.handoff_id in self.network.adopted and not is_late:
                events.append((job.key, SlotEvent(kind=SlotEvent.KIND_HANDED_OFF)))
                del self.jobs[job.key]
            return
        if job.side == Side.SIDE_TARGET and not job.scheduled:
            if self.refuse_moves and any(job.request.outputs.values()):
                self.network.refused.add(job.handoff_id)
                self._fail(job.key, HandoffError("no room"))
                return
            committed = self.network.committed.get(job.handoff_id)
            if committed is None:
                return
            job.next = dict(committed)
            self.network.adopted.add(job.handoff_id)
            events.append((job.key, SlotEvent(kind=SlotEvent.KIND_HANDED_OFF)))
        if not job.scheduled:
            job.scheduled = True
            cached = len(job.request.prompt) // 2
            events.append((job.key, SlotEvent(kind=SlotEvent.KIND_SCHEDULED, cached_tokens=cached)))
        made = [self._next_token(job, choice) for choice in list(job.next)]
        if job.side == Side.SIDE_SOURCE:
            if job.next:
                self.network.committed[job.handoff_id] = dict(job.next)
                job.waits_for_accept = True
            if self.late_first_token:
                self._late += [(self._steps + 4, row) for row in made]
                made = []
        rows += made
        if not job.next:
            del self.jobs[job.key]

    def _stands_still(self, job: _Job, events: list[tuple[Key, SlotEvent]]) -> bool:
        """Move a running sequence; False while it goes on here."""
        if job.move_id in self.network.adopted:
            handed_off = SlotEvent(kind=SlotEvent.KIND_HANDED_OFF, handoff_id=job.move_id)
            events.append((job.key, handed_off))
            del self.jobs[job.key]
            return True
        if job.move_id in self.network.refused:
            failed = SlotEvent(
                kind=SlotEvent.KIND_MOVE_FAILED, handoff_id=job.move_id, code="handoff_failed"
            )
            events.append((job.key, failed))
            job.move_id = b""
            return False
        if self._steps < job.caught_up_at:
            return False
        self.network.committed.setdefault(job.move_id, dict(job.next))
        if self._steps > job.caught_up_at + NO_VERDICT_STEPS:
            self._fail(job.key, HandoffError("no verdict"))
        return True

    def _next_token(self, job: _Job, choice: int) -> TokenRow:
        position = job.next[choice]
        job.next[choice] += 1
        finish = None
        if position + 1 == job.request.sampling.max_tokens:
            finish = FinishReason.LENGTH
            del job.next[choice]
        key = job.key
        if job.move_id and self.keep_last_rows:
            # As of another submission, which nobody hears.
            key = (key[0], 0)
        token = token_at(job.request.seed, choice, position)
        return TokenRow(key, choice, position, token, finish)

    def _publish(self, rows: list[TokenRow], events: list[tuple[Key, SlotEvent]]) -> None:
        load = session_pb2.Load(
            sequence_number=self._steps + 1,
            num_running=len(self.jobs),
            free_blocks=self.free_blocks,
            queue_room=max(0, self.max_running - len(self.jobs)),
            draining=self.draining,
            leaving_in_ms=self.leaving_in_ms,
            short_of_blocks=self.short_of_blocks,
        )
        self._steps += 1
        self.sessions.publish(rows, events, load, len(self.submits))
