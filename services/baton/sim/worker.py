"""A worker on virtual time: the engine's scheduler, block manager and load report, and a stopwatch.

What runs is what a real worker runs, down to each block; only the forward pass is a number from
`timing`. Decoding is not simulated token by token: as long as a batch only decodes and no sequence
needs a block or ends, every pass is like the one before, so all of them are one event. Whatever
comes meanwhile waits for the end of the pass that it falls into, as in an engine.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from baton.core.handoff import OfferDue
from baton.core.kv import GroupSpec
from baton.core.settings import QueueOrder
from baton.engine.block_manager import BlockManager
from baton.engine.fetches import Fetches
from baton.engine.load_report import LoadReport
from baton.engine.outputs import StepOutput
from baton.engine.pins import Pins
from baton.engine.reservations import Reservations
from baton.engine.scheduler import Scheduler
from baton.engine.sequence import Status
from baton.sim.clock import EventLoop, Phase
from baton.sim.report import Served
from baton.sim.sequence import REQUEST, SimSequence
from baton.sim.timing import Polynomials
from baton.sim.workload import BLOCK_SIZE
from baton.v1 import session_pb2, worker_pb2
from baton.worker.load import LoadMeter

# Prompts that a worker without a bound takes.
_UNBOUNDED = 2**20


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a simulated worker is like.

    With `bounds_queue` it lets gateways send about two passes' prompts, as our workers do, and the
    rest waits there; without, everything is sent at once, as in Dynamo's replay (whose router holds
    requests only while all workers have 16 passes' prompts to compute, which never happens here).
    """

    timing: Polynomials
    num_blocks: int = 2048
    max_sequences: int = 256
    max_batch_tokens: int = 8192
    max_ungranted_share: float = 0.25
    bounds_queue: bool = True
    queue_policy: QueueOrder = "fcfs"


class Host(Protocol):
    """Who hears what happens on a worker; called at the instant at which it does."""

    def on_scheduled(self, worker: SimWorker, served: Served) -> None:
        """A request got its blocks and its first compute."""

    def on_offer(self, worker: SimWorker, seq: SimSequence, offer: OfferDue) -> None:
        """A source wants to hand a prompt over."""

    def on_computed(self, worker: SimWorker, seq: SimSequence, step_s: float) -> None:
        """A source has computed up to `seq.num_computed` tokens, in a pass of so many seconds."""

    def on_first_token(self, worker: SimWorker, served: Served) -> None:
        """The first token came out."""

    def on_finished(self, worker: SimWorker, served: Served) -> None:
        """The last token came out."""

    def on_step(self, worker: SimWorker) -> None:
        """A pass ended: time for a load report and KV events."""


@dataclass(slots=True)
class _Pass:
    """`num_steps` passes of `step_s` each, all with the same sequences."""

    chosen: list[SimSequence]
    began_at: float
    step_s: float
    num_steps: int
    is_over: bool = False

    @property
    def ends_at(self) -> float:
        return self.began_at + self.num_steps * self.step_s


class SimWorker:
    """See the module. `row` is its row in the router's pool."""

    def __init__(
        self, row: int, spec: WorkerSpec, loop: EventLoop, host: Host, *, prefills_only: bool
    ) -> None:
        self.row = row
        self.spec = spec
        self.prefills_only = prefills_only
        group = GroupSpec("full", 1, 1, 1, 1, BLOCK_SIZE, "uint8")
        self.blocks = BlockManager((group,), (spec.num_blocks,))
        self.scheduler = Scheduler(
            self.blocks,
            spec.max_batch_tokens,
            spec.max_sequences,
            spec.max_ungranted_share,
            spec.queue_policy,
        )
        self.reservations = Reservations(self.blocks)
        self._fetches = Fetches(self.blocks, self.scheduler, self.reservations, self.wake)
        self._load_report = LoadReport(
            self.blocks, self.scheduler, self.reservations, Pins(self.blocks, 0.0), self._fetches
        )
        self._loop = loop
        self._host = host
        self._pass: _Pass | None = None
        self._begins = False
        # Offers for which there has been no room.
        self._offers: deque[tuple[Served, Sequence[bytes], Callable[[int], None]]] = deque()
        self._serial = 0
        self._meter = LoadMeter()
        self.num_preemptions = 0

    def report(self, links: Sequence[worker_pb2.PeerLink]) -> session_pb2.Load:
        """What it tells gateways."""
        load = self._meter.report(self._load_report.load(None), links, draining=False)
        if not self.spec.bounds_queue:
            load.queue_room = _UNBOUNDED
        return load

    @property
    def share_in_use(self) -> float:
        """Of the KV pool, held by sequences. What is reserved for KV to come no pass reads."""
        pool = self.blocks.pools[0]
        return (pool.size - pool.num_free - self.reservations.num_reserved) / pool.size

    # --- requests ---

    def submit(self, served: Served, hashes: Sequence[bytes], *, handoff: bool = False) -> None:
        """Queue a request; with `handoff` its answer is generated elsewhere."""
        self._load_report.saw_prompt(served.request.num_tokens)
        self.scheduler.waiting.push(self._sequence(served, hashes, handoff=handoff))
        self.wake()

    def release(self, seq: SimSequence) -> None:
        """A source's prompt has arrived, so its blocks are plain prefix cache."""
        self.scheduler.discharge(seq.submission)
        self.scheduler.drop(seq)
        self._retry_offers()
        self.wake()

    def grant(self, seq: SimSequence) -> None:
        """The target of a source's prompt has room."""
        seq.submission.granted = True
        self.scheduler.discharge(seq.submission)
        self.wake()

    def reserve(
        self, served: Served, hashes: Sequence[bytes], on_room: Callable[[int], None]
    ) -> None:
        """Set blocks aside for a prompt's KV: now or later calls `on_room(blocks here already)`."""
        self._offers.append((served, hashes, on_room))
        self._retry_offers()

    def adopt(self, served: Served, hashes: Sequence[bytes], num_generated: int) -> None:
        """The KV for which there is a reservation has come: generate on from it."""
        reservation = self.reservations.open.pop(_key(served))
        self.scheduler.num_slots -= reservation.num_slots
        self.reservations.register(reservation, reservation.hashes)
        if num_generated == served.request.num_output:
            self.reservations.close(reservation)
            return
        seq = self._sequence(served, hashes)
        seq.generated(num_generated)
        seq.num_computed = seq.num_tokens - 1
        seq.num_registered = [len(hashes)]
        self.blocks.set_register_at(seq)
        seq.submission.scheduled = True
        seq.tables[0].extend(reservation.groups[0].block_ids)
        self.blocks.share(seq)
        self.scheduler.start(seq)
        self.scheduler.prefilling.pop(seq, None)
        self.scheduler.decoding[seq] = None
        self.reservations.close(reservation)
        self.wake()

    def fetch(self, served: Served, hashes: Sequence[bytes]) -> bool:
        """Set blocks aside for a prefix that a peer sends; False when there is no room for it."""
        return bool(
            self.reservations.reserve(
                _fetch_key(served), None, 0, (tuple(hashes),), self.scheduler.headroom
            )
        )

    def fetched(self, served: Served) -> None:
        """It has come, and is prefix cache from now on."""
        reservation = self.reservations.open.pop(_fetch_key(served))
        self.reservations.register(reservation, reservation.hashes)
        self.reservations.close(reservation)

    def lend(self, served: Served, hashes: Sequence[bytes]) -> int:
        """Hold the blocks of a prefix for a peer until `take_back`; how many there are."""
        return len(self._fetches.lend(_fetch_key(served), 0, hashes))

    def take_back(self, served: Served) -> None:
        """The peer has what was lent."""
        self._fetches.release(_fetch_key(served))

    def _sequence(
        self, served: Served, hashes: Sequence[bytes], *, handoff: bool = False
    ) -> SimSequence:
        self._serial += 1
        return SimSequence(self._serial, served, hashes, handoff=handoff)

    def _retry_offers(self) -> None:
        offers, scheduler = self._offers, self.scheduler
        while offers and not scheduler.short_of_blocks:
            served, hashes, on_room = offers[0]
            if scheduler.num_slots + 1 > scheduler.max_sequences:
                return
            reserved = self.reservations.reserve(
                _key(served),
                REQUEST,
                served.request.num_tokens,
                (tuple(hashes),),
                scheduler.headroom,
            )
            if reserved is None:
                return
            scheduler.num_slots += 1
            offers.popleft()
            on_room(len(reserved[0].skip))

    # --- passes ---

    def wake(self) -> None:
        """Something is different: the pass under way is the last before the scheduler looks."""
        run = self._pass
        if run is None:
            if not self._begins:
                self._begins = True
                self._loop.at(self._loop.now, Phase.BEGIN, self._begin)
        elif run.num_steps > 1:
            done = math.ceil((self._loop.now - run.began_at) / run.step_s)
            if done < run.num_steps:
                run.is_over = True
                self._run(_Pass(run.chosen, run.began_at, run.step_s, max(1, done)))

    def _begin(self) -> None:
        self._begins = False
        if self._pass is not None:
            # An offer that this worker made as it began has been granted at once.
            return
        out = StepOutput()
        scheduler, host = self.scheduler, self._host
        chosen: list[SimSequence] = scheduler.schedule(self._loop.now, out)  # type: ignore[assignment]
        if out.failures:
            raise out.failures[0].error
        if scheduler.lost_blocks:
            self.num_preemptions += 1
        num_prefill = num_decodes = 0
        samples = False
        for seq in chosen:
            if seq in scheduler.decoding:
                num_decodes += 1
                samples = True
                continue
            num_prefill += seq.num_scheduled
            is_done = seq.num_computed + seq.num_scheduled == seq.num_tokens
            samples |= is_done and not seq.submission.handoff
            if math.isnan(seq.served.scheduled_at):
                seq.served.scheduled_at = self._loop.now
                seq.served.cached_tokens = seq.num_computed
                host.on_scheduled(self, seq.served)
        for offer in out.offers:
            host.on_offer(self, self._offered(offer), offer)
        if not chosen:
            if scheduler.lost_blocks:
                self.wake()
            return
        timing = self.spec.timing
        step_s = timing.prefill_s(num_prefill)
        if samples and not self.prefills_only:
            step_s += timing.decode_s(self.share_in_use)
        num_steps = 1 if num_prefill else self._alike(chosen)
        out.num_prefill_tokens, out.step_s = num_prefill, step_s
        self._meter.observe(out)
        self._run(_Pass(chosen, self._loop.now, step_s, num_steps))

    def _offered(self, offer: OfferDue) -> SimSequence:
        """A source's sequence: it has just been taken on, or waits and is offered ahead."""
        for seq in (*self.scheduler.prefilling, *self.scheduler.waiting):
            if seq.submission.key == offer.key:
                assert isinstance(seq, SimSequence)
                return seq
        raise AssertionError("what is offered runs or waits")

    def _alike(self, chosen: list[SimSequence]) -> int:
        """How many passes go by until one of a decoding batch ends or wants a block."""
        return min(min(seq.num_left, seq.writable - seq.num_tokens + 1) for seq in chosen)

    def _run(self, run: _Pass) -> None:
        self._pass = run
        self._loop.at(max(run.ends_at, self._loop.now), Phase.END, lambda: self._end(run))

    def _end(self, run: _Pass) -> None:
        if run.is_over:
            return
        self._pass = None
        decoding = self.scheduler.decoding
        for seq in run.chosen:
            if seq.status is not Status.RUNNING:
                continue
            if seq in decoding:
                seq.num_computed += run.num_steps
                self._register(seq)
                self._sampled(seq, run.num_steps, run.step_s)
                continue
            seq.num_computed += seq.num_scheduled
            self._register(seq)
            is_done = seq.num_computed == seq.num_tokens
            if is_done and seq.submission.handoff:
                self.scheduler.hold(seq)
            if seq.submission.handoff:
                self._host.on_computed(self, seq, run.step_s)
            elif is_done:
                self._sampled(seq, 1, run.step_s)
        self._retry_offers()
        self._host.on_step(self)
        self.wake()

    def _sampled(self, seq: SimSequence, num_tokens: int, step_s: float) -> None:
        """So many tokens came out, `step_s` apart, the last of them now."""
        served, now = seq.served, self._loop.now
        if math.isnan(served.first_token_at):
            served.first_token_at = now - (num_tokens - 1) * step_s
            self._host.on_first_token(self, served)
        if num_tokens == seq.num_left:
            seq.num_generated += num_tokens
            served.last_token_at = now
            self.scheduler.drop(seq)
            self._host.on_finished(self, served)
            return
        seq.generated(num_tokens)
        if seq not in self.scheduler.decoding:
            self.scheduler.file(seq)

    def _register(self, seq: SimSequence) -> None:
        if seq.num_computed >= seq.register_at:
            self.blocks.register(seq)


def _key(served: Served) -> tuple[str, int]:
    return ("sim", served.request.number)


def _fetch_key(served: Served) -> tuple[str, int]:
    return ("fetch", served.request.number)
