"""How well requests are routed: a fleet of simulated workers, a trace, and the real router.

    BATON_BENCH_TRACES=FOLDER make bench-routing

FOLDER holds `mooncake_conversation_trace.jsonl.gz` (12,031 requests in 59 minutes); without it a
small invented workload is taken, whose figures compare with nobody's. Each row replays it on
virtual time through `baton.sim`: the engine's scheduler and block manager, the router's pool,
index, policies and selection. Worker and workload are those of NVIDIA Dynamo 1.6.1's own replay,
whose published figures are the rows marked so; rows with policy `dynamo` are its cost function
here. They say how far the simulator can be trusted: the calibration's errors are printed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from measure import hardware, save

from baton.core.gc_pauses import settle_gc
from baton.core.settings import RouterSettings
from baton.router.policy.registry import policy_named
from baton.sim.fleet import Fleet, FleetSpec
from baton.sim.handoff import TransferSpec
from baton.sim.report import Report, report
from baton.sim.timing import MOCKER
from baton.sim.worker import WorkerSpec
from baton.sim.workload import TraceRequest, lru_reuse, read_trace

TRACE = "mooncake_conversation_trace.jsonl.gz"
SAMPLE = Path(__file__).parent / "workloads" / "conversations.jsonl"
NUM_BLOCKS = 2048
NUM_WORKERS = 8

EAGER = WorkerSpec(MOCKER, NUM_BLOCKS, bounds_queue=False)
SHORTEST = WorkerSpec(MOCKER, NUM_BLOCKS, bounds_queue=False, queue_policy="shortest")
BOUNDED = WorkerSpec(MOCKER, NUM_BLOCKS)
STREAMED = TransferSpec()
WHOLE = TransferSpec(streamed=False)
# No decode worker computes prompts, as in Dynamo's replay.
PAIRS = {"disaggregation": "always"}


def aggregated(worker: WorkerSpec) -> FleetSpec:
    return FleetSpec(worker, STREAMED, num_any=NUM_WORKERS)


def split(transfer: TransferSpec, worker: WorkerSpec = EAGER) -> FleetSpec:
    return FleetSpec(worker, transfer, num_prefill=6, num_decode=2)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `settings` are those of the router that differ from the defaults."""

    label: str
    policy: str
    fleet: FleetSpec
    settings: dict[str, Any] | None = None


ROWS = {
    "rr8": Row("8 aggregated", "round_robin", aggregated(EAGER)),
    "dynamo8": Row("8 aggregated", "dynamo", aggregated(EAGER)),
    "ours8": Row("8 aggregated", "kv_aware", aggregated(EAGER)),
    "nofetch8": Row("8 aggregated, no fetch", "kv_aware", aggregated(EAGER), {"fetch": False}),
    "bounded8": Row("8 aggregated, bounded queues", "kv_aware", aggregated(BOUNDED)),
    "dynamo62": Row("6+2, whole prompts", "dynamo", split(WHOLE), PAIRS),
    "stream62": Row("6+2", "dynamo", split(STREAMED), PAIRS),
    "ours62": Row("6+2", "kv_aware", split(STREAMED), PAIRS),
    "dynamo62s": Row("6+2, shortest first", "dynamo", split(STREAMED, SHORTEST), PAIRS),
    "ours62s": Row("6+2, shortest first", "kv_aware", split(STREAMED, SHORTEST), PAIRS),
    "ours8s": Row("8 aggregated, shortest first", "kv_aware", aggregated(SHORTEST)),
    "auto62": Row("6+2, conditional", "kv_aware", split(STREAMED)),
}


@dataclass(frozen=True, slots=True)
class Published:
    """Figures of Dynamo 1.6.1's replay: times in ms, None for what was not told."""

    row: str
    label: str
    reuse: float
    ttft_mean: float
    ttft_p99: float
    tpot_p50: float | None = None
    tpot_p99: float | None = None
    num_good: int | None = None


PUBLISHED = (
    Published("rr8", "8 aggregated, round robin", 0.082, 321, 2048),
    Published("dynamo8", "8 aggregated, KV router", 0.205, 276, 1690),
    Published("dynamo62", "6+2, KV router", 0.217, 375, 2172, 9.8, 16.5, 11_874),
)


def replay(row: Row, requests: list[TraceRequest], seed: int) -> Report:
    """One row's figures."""
    policy = policy_named(row.policy, RouterSettings(**(row.settings or {})))
    return report(Fleet(row.fleet, policy, seed).run(requests))


class _Trace:
    """What the processes that compute rows were forked with: read and hashed once for all."""

    requests: list[TraceRequest]

    @classmethod
    def take(cls, requests: list[TraceRequest]) -> None:
        cls.requests = requests

    @classmethod
    def replay(cls, name: str, seed: int) -> tuple[Report, float]:
        """A row's figures, and the seconds of CPU that they took."""
        started = time.process_time()
        return replay(ROWS[name], cls.requests, seed), time.process_time() - started


def replay_all(
    names: list[str], requests: list[TraceRequest], seed: int, num_processes: int
) -> tuple[dict[str, Report], float]:
    """The rows' figures, and the CPU seconds of all of them."""
    # Nothing of a trace is garbage before the end.
    settle_gc()
    with ProcessPoolExecutor(num_processes, get_context("fork"), _Trace.take, (requests,)) as pool:
        # Those with handoffs take longest: one of them must not be the last to begin.
        longest_first = sorted(names, key=lambda name: ROWS[name].fleet.num_any)
        futures = {name: pool.submit(_Trace.replay, name, seed) for name in longest_first}
        results = {name: futures[name].result() for name in names}
    cpu_s = sum(seconds for _, seconds in results.values())
    return {name: result for name, (result, _) in results.items()}, cpu_s


def line(label: str, policy: str, result: Report) -> str:
    return (
        f"{label:31} {policy:12} {result.block_reuse:6.3f} {result.ttft_mean_s * 1e3:6.0f} "
        f"{result.ttft_p50_s * 1e3:5.0f} {result.ttft_p99_s * 1e3:6.0f} "
        f"{result.tpot_p50_s * 1e3:6.1f} {result.tpot_p99_s * 1e3:6.1f} {result.num_good:7,} "
        f"{result.fetched_share:7.3f} {result.imbalance:6.2f}"
    )


def published_line(figures: Published) -> str:
    tpot = [f"{v:6.1f}" if v else f"{'':6}" for v in (figures.tpot_p50, figures.tpot_p99)]
    good = f"{figures.num_good:7,}" if figures.num_good else ""
    return (
        f"{figures.label:31} {'(published)':12} {figures.reuse:6.3f} {figures.ttft_mean:6.0f} "
        f"{'':5} {figures.ttft_p99:6.0f} {tpot[0]} {tpot[1]} {good}".rstrip()
    )


def calibration(results: dict[str, Report]) -> list[str]:
    """How far this simulator is from the replay that it follows, in percent."""
    lines = []
    for figures in PUBLISHED:
        result = results.get(figures.row)
        if result is None:
            continue
        pairs = {
            "reuse": (result.block_reuse, figures.reuse),
            "TTFT mean": (result.ttft_mean_s * 1e3, figures.ttft_mean),
            "TTFT p99": (result.ttft_p99_s * 1e3, figures.ttft_p99),
            "TPOT p50": (result.tpot_p50_s * 1e3, figures.tpot_p50),
            "TPOT p99": (result.tpot_p99_s * 1e3, figures.tpot_p99),
        }
        errors = ", ".join(
            f"{name} {(got / wanted - 1) * 100:+.1f} %"
            for name, (got, wanted) in pairs.items()
            if wanted
        )
        lines.append(f"  {figures.label}: {errors}")
    return lines


def bounds(requests: list[TraceRequest]) -> tuple[float, float]:
    """Reuse of one LRU cache as large as all eight, and as the six that prefill."""
    return lru_reuse(requests, NUM_WORKERS * NUM_BLOCKS), lru_reuse(requests, 6 * NUM_BLOCKS)


def show(results: dict[str, Report], requests: list[TraceRequest], *, is_real: bool) -> None:
    columns = ("reuse", "TTFT", "p50", "p99 ms", "TPOT50", "p99 ms", "good", "fetched", "max/mean")
    widths = (6, 6, 5, 6, 6, 6, 7, 7, 8)
    head = " ".join(f"{name:>{width}}" for name, width in zip(columns, widths, strict=True))
    print(f"{'fleet':31} {'policy':12} {head}")
    for name, result in results.items():
        for figures in PUBLISHED:
            if figures.row == name and is_real:
                print(published_line(figures))
        print(line(ROWS[name].label, ROWS[name].policy, result))
    eight, six = bounds(requests)
    print(f"\nreuse of one LRU cache: {eight:.3f} with the blocks of all 8, {six:.3f} of 6")
    for name in ("ours8", "ours62"):
        if name in results:
            share = results[name].block_reuse / eight
            print(f"  {ROWS[name].label}, {ROWS[name].policy}: {share:.1%} of the former")
    if is_real:
        print("\ncalibration, this simulator against the published replay:")
        print("\n".join(calibration(results)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="*", choices=[*ROWS], default=[*ROWS])
    parser.add_argument("--seed", type=int, default=0, help="of random ties")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    folder = os.environ.get("BATON_BENCH_TRACES")
    trace = Path(folder) / TRACE if folder else SAMPLE
    if not trace.is_file():
        sys.exit(f"BATON_BENCH_TRACES has no {trace.name}")
    requests = read_trace(trace)
    print(f"{trace.name}: {len(requests):,} requests; {hardware()}")
    if not folder:
        print("a small invented workload: these figures are not comparable with any others")
    started = time.perf_counter()
    results, cpu_s = replay_all(args.rows, requests, args.seed, args.processes)
    took_s = time.perf_counter() - started
    print(f"good: TTFT within 2 s, TPOT within 25 ms. {took_s:.0f} s, {cpu_s:.0f} s of CPU\n")
    show(results, requests, is_real=bool(folder))
    if args.save:
        figures = {
            ROWS[name].label + ", " + ROWS[name].policy: {
                "block_reuse": round(result.block_reuse, 4),
                "ttft_mean_ms": round(result.ttft_mean_s * 1e3, 1),
                "ttft_p99_ms": round(result.ttft_p99_s * 1e3, 1),
                "tpot_p50_ms": round(result.tpot_p50_s * 1e3, 2),
                "tpot_p99_ms": round(result.tpot_p99_s * 1e3, 2),
                "num_good": result.num_good,
            }
            for name, result in results.items()
        }
        print(f"\nsaved to {save('bench-routing', {'seed': args.seed, 'rows': figures})}")


if __name__ == "__main__":
    main()
