"""Simulated workers behind the real router: pool, index, policy and selection on virtual time.

What the gateway's shell does is done here without its sessions: requests wait in order of arrival
until a worker has room, a placement is booked and its blocks are predicted, workers' reports come
at the end of each pass, KV events are known at once. Messages take no time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from baton.core.handoff import OfferDue
from baton.core.queue_policy.fcfs import Fcfs
from baton.planner.output_length import OutputLengths
from baton.router.columns import Role
from baton.router.policy.base import Policy, RequestView
from baton.router.pool import Booking, Pool
from baton.router.selection import book, select
from baton.sim.clock import EventLoop, Phase
from baton.sim.handoff import Fetch, Handoff, TransferSpec
from baton.sim.link import Link
from baton.sim.report import Served
from baton.sim.sequence import SimSequence
from baton.sim.small_index import SmallIndex
from baton.sim.worker import SimWorker, WorkerSpec
from baton.sim.workload import BLOCK_SIZE, TraceRequest
from baton.v1 import common_pb2, worker_pb2

MODEL = "sim"
# What requests allow for their answers. How long these will be nobody but the trace knows.
MAX_OUTPUT = 4096


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """How many workers of which role, all alike, and how KV goes between them."""

    worker: WorkerSpec
    transfer: TransferSpec
    num_any: int = 0
    num_prefill: int = 0
    num_decode: int = 0

    @property
    def roles(self) -> list[Role]:
        return (
            [Role.ANY] * self.num_any
            + [Role.PREFILL] * self.num_prefill
            + [Role.DECODE] * self.num_decode
        )


@dataclass(slots=True)
class _Placed:
    """A request that has been placed."""

    decode: Booking
    prefill: Booking | None = None
    handoff: Handoff | None = None


class Fleet:
    """Implements `worker.Host`."""

    def __init__(self, spec: FleetSpec, policy: Policy, seed: int) -> None:
        self.loop = EventLoop()
        self.pool = Pool()
        self.index = SmallIndex(len(spec.roles))
        self.served: list[Served] = []
        self.workers: list[SimWorker] = []
        self._spec = spec
        self._policy = policy
        self._rng = random.Random(seed)
        self._waiting: Fcfs[TraceRequest] = Fcfs()
        self._placed: dict[int, _Placed] = {}
        self._links: list[Link] = []
        self._lengths = OutputLengths()
        bytes_per_s = spec.transfer.bytes_per_s
        self._peer_links = [worker_pb2.PeerLink(is_up=True, bytes_per_s=bytes_per_s)]
        for number, role in enumerate(spec.roles):
            row = self.pool.add(_lease(number, role, spec))
            assert row == number
            self.pool.set_up(row, True)
            prefills_only = role is Role.PREFILL
            self.workers.append(
                SimWorker(row, spec.worker, self.loop, self, prefills_only=prefills_only)
            )
            self._links.append(
                Link(spec.transfer.seconds(1), spec.transfer.layer_groups, self.loop)
            )

    def run(self, requests: Sequence[TraceRequest]) -> list[Served]:
        """Replay requests to the end; what became of them, in order of placement."""
        self._expect_next(iter(sorted(requests, key=lambda request: request.at)))
        self.loop.run()
        return self.served

    # --- placing ---

    def _expect_next(self, requests: Iterator[TraceRequest]) -> None:
        """One arrival after the other: a heap of all would be slow."""
        request = next(requests, None)
        if request is not None:
            self.loop.at(request.at, Phase.ARRIVE, lambda: self._arrive(request, requests))

    def _arrive(self, request: TraceRequest, others: Iterator[TraceRequest]) -> None:
        self._expect_next(others)
        self._waiting.push(request)
        self._place_waiting()

    def _place_waiting(self) -> None:
        while (request := self._waiting.peek()) is not None and self._place(request):
            self._waiting.pop()

    def _place(self, request: TraceRequest) -> bool:
        hashes = request.hashes
        overlap = None
        if self._policy.needs_overlap:
            self._take_events()
            # One token is left to compute.
            known = hashes[: (request.num_tokens - 1) // BLOCK_SIZE]
            overlap = self.index.match(known, self.loop.now)
        expected = self._lengths.predict(MODEL, "", MAX_OUTPUT)
        view = RequestView(MODEL, request.num_tokens, overlap=overlap, expected_output=expected)
        selection = select(view, self.pool, self._policy, self._rng)
        if selection is None:
            return False
        prefill, decode = book(view, self.pool, selection)
        computes = selection.computing
        served = Served(
            request, prefill=computes, decode=selection.decode, dispatched_at=self.loop.now
        )
        self.served.append(served)
        self._placed[request.number] = _Placed(decode, prefill)
        if self._policy.needs_overlap:
            self.index.predict(computes, hashes, self.loop.now)
        worker = self.workers[computes]
        if selection.fetch_from is None or overlap is None:
            worker.submit(served, hashes, handoff=prefill is not None)
            return True
        peer = selection.fetch_from
        missing = hashes[int(overlap.device[computes]) : int(overlap.device[peer])]
        Fetch(
            served,
            missing,
            self.workers[peer],
            worker,
            self._links[peer],
            lambda: worker.submit(served, hashes, handoff=prefill is not None),
        )
        return True

    # --- what workers say ---

    def on_scheduled(self, worker: SimWorker, served: Served) -> None:
        placed = self._placed[served.request.number]
        self.pool.begin(placed.prefill or placed.decode)

    def on_offer(self, worker: SimWorker, seq: SimSequence, offer: OfferDue) -> None:
        served = seq.served
        placed = self._placed[served.request.number]
        placed.handoff = Handoff(
            seq,
            served.request.hashes,
            worker,
            self.workers[served.decode],
            self._links[worker.row],
            self._spec.transfer,
            self.loop,
            lambda: self._adopted(served),
        )
        placed.handoff.offer()

    def on_computed(self, worker: SimWorker, seq: SimSequence, step_s: float) -> None:
        served = seq.served
        if seq.num_computed == seq.num_tokens and self._spec.transfer.streamed:
            served.first_token_at = self.loop.now
            if served.request.num_output == 1:
                served.last_token_at = self.loop.now
        handoff = self._placed[served.request.number].handoff
        assert handoff is not None, "what is computed here for others has been offered"
        handoff.advance(step_s)

    def _adopted(self, served: Served) -> None:
        placed = self._placed[served.request.number]
        assert placed.prefill is not None
        self.pool.end(placed.prefill)
        self.pool.begin(placed.decode)
        if served.request.num_output == 1 and self._spec.transfer.streamed:
            self.on_finished(self.workers[served.decode], served)

    def on_first_token(self, worker: SimWorker, served: Served) -> None:
        pass

    def on_finished(self, worker: SimWorker, served: Served) -> None:
        self.pool.end(self._placed.pop(served.request.number).decode)
        self._lengths.ended(MODEL, "", served.request.num_output)

    def on_step(self, worker: SimWorker) -> None:
        self.pool.report(worker.row, worker.report(self._peer_links))
        if len(self._waiting):
            self._place_waiting()

    def _take_events(self) -> None:
        """KV events since they were last asked for. What went and came back is in none of them."""
        for worker in self.workers:
            for _, stored, removed in worker.blocks.take_changes():
                self.index.remove(worker.row, removed)
                self.index.store(worker.row, stored)


def _lease(number: int, role: Role, fleet: FleetSpec) -> common_pb2.WorkerLease:
    spec = fleet.worker
    # One layer with one head of as many bytes as a token's KV has.
    dim = fleet.transfer.bytes_per_token // 2
    return common_pb2.WorkerLease(
        worker=common_pb2.WorkerRef(worker_id=f"worker-{number}", epoch=1),
        role=int(role),  # type: ignore[arg-type]
        model=MODEL,
        digest="",
        groups=[
            common_pb2.GroupSpec(
                kind=common_pb2.GroupSpec.KIND_FULL,
                num_layers=1,
                num_kv_heads=1,
                k_dim=dim // 2,
                v_dim=dim // 2,
                block_size=BLOCK_SIZE,
                dtype="bfloat16",
            )
        ],
        capacity=common_pb2.Capacity(
            num_blocks=spec.num_blocks,
            block_size=BLOCK_SIZE,
            max_sequences=spec.max_sequences,
            max_batch_tokens=spec.max_batch_tokens,
        ),
    )
