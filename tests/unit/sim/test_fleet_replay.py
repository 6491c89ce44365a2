"""Fleets of simulated workers behind the real router, on the sample workload."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from baton.core.settings import RouterSettings
from baton.router.columns import Columns, Rows
from baton.router.policy.base import RequestView, Scores
from baton.router.policy.kv_aware import KvAware
from baton.router.policy.registry import policy_named
from baton.sim.fleet import Fleet, FleetSpec
from baton.sim.handoff import TransferSpec
from baton.sim.report import Report, Served, report
from baton.sim.timing import MOCKER
from baton.sim.worker import WorkerSpec
from baton.sim.workload import TraceRequest, read_trace

SAMPLE = Path(__file__).parents[3] / "loadtests" / "workloads" / "conversations.jsonl"
# Small pools, so that blocks are evicted and prompts wait for room.
WORKER = WorkerSpec(MOCKER, num_blocks=128)
AGGREGATED = FleetSpec(WORKER, TransferSpec(), num_any=4)
SPLIT = FleetSpec(WORKER, TransferSpec(), num_prefill=3, num_decode=1)
WHOLE = FleetSpec(WORKER, TransferSpec(streamed=False), num_prefill=3, num_decode=1)


@pytest.fixture(scope="module")
def requests() -> list[TraceRequest]:
    return read_trace(SAMPLE)


def replay(
    requests: list[TraceRequest], spec: FleetSpec, policy: str, seed: int = 0, **settings: object
) -> tuple[Fleet, list[Served], Report]:
    chosen = policy_named(policy, RouterSettings(**settings))  # type: ignore[arg-type]
    fleet = Fleet(spec, chosen, seed)
    served = fleet.run(requests)
    return fleet, served, report(served)


@pytest.mark.parametrize("spec", [AGGREGATED, SPLIT, WHOLE])
def test_everybody_is_served_and_nothing_is_left(
    requests: list[TraceRequest], spec: FleetSpec
) -> None:
    fleet, served, _ = replay(requests, spec, "kv_aware")
    assert sorted(s.request.number for s in served) == list(range(len(requests)))
    for worker in fleet.workers:
        worker.blocks.pools[0].check(Counter(), [])
        assert not worker.reservations.open
        assert not worker.scheduler.num_slots
        assert not worker.scheduler.ungranted_blocks
    columns = fleet.pool.columns
    for left in (columns.inflight, columns.booked_blocks, columns.awaiting_kv):
        assert not left.any()


class Asking(KvAware):
    """Compares the index with the workers' caches when it is asked about a request of one token."""

    def __init__(self) -> None:
        super().__init__(RouterSettings())
        self.fleet = Fleet(AGGREGATED, self, 0)
        self.num_held = self.num_evicted = 0

    def decode_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        if view.num_tokens == 1:
            caches = [worker.blocks.pools[0].cache for worker in self.fleet.workers]
            for block in {block for one in self.fleet.served for block in one.request.hashes}:
                held = self.fleet.index.match([block], self.fleet.loop.now).device.tolist()
                assert held == [cache.get(block) is not None for cache in caches]
                self.num_held += sum(held)
                self.num_evicted += not any(held)
        return super().decode_scores(view, columns, rows)


def test_index_knows_just_what_the_workers_have(requests: list[TraceRequest]) -> None:
    asking = Asking()
    # It comes when nothing is predicted any more.
    last = TraceRequest(len(requests), requests[-1].at + 1000, 1, 1, (0,))
    asking.fleet.run([*requests, last])
    assert asking.num_held > 100 and asking.num_evicted > 100


def test_a_seed_decides_everything(requests: list[TraceRequest]) -> None:
    def times(seed: int) -> list[tuple[int, float, float]]:
        _, served, _ = replay(requests, SPLIT, "kv_aware", seed)
        return [(s.prefill, s.first_token_at, s.last_token_at) for s in served]

    assert times(3) == times(3)


def test_kv_aware_reuses_more_than_round_robin_and_is_faster(requests: list[TraceRequest]) -> None:
    _, _, blind = replay(requests, AGGREGATED, "round_robin")
    _, _, aware = replay(requests, AGGREGATED, "kv_aware")
    assert aware.block_reuse > 1.5 * blind.block_reuse
    assert aware.ttft_mean_s < blind.ttft_mean_s


def test_first_token_does_not_wait_for_a_streamed_handoff(requests: list[TraceRequest]) -> None:
    settings = {"disaggregation": "always"}
    _, _, streamed = replay(requests, SPLIT, "round_robin", **settings)
    _, _, whole = replay(requests, WHOLE, "round_robin", **settings)
    assert streamed.ttft_mean_s < whole.ttft_mean_s


def test_fetched_blocks_are_not_computed(requests: list[TraceRequest]) -> None:
    _, served, fetching = replay(requests, AGGREGATED, "conductor")
    assert fetching.fetched_share > 0
    assert all(s.cached_tokens >= 0 for s in served)
    _, _, alone = replay(requests, AGGREGATED, "kv_aware", fetch=False)
    assert alone.fetched_share == 0
