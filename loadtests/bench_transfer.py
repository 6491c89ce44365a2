"""What a handoff costs beyond its bytes: goodput against raw NIXL, and without data against gRPC.

    make bench-transfer

Two worker processes without engines, see `transfer_ends`. Goodput is a handoff's bytes over the
time from its Offer to Accepted: of IN_FLIGHT at once, from the first Offer to the last Accepted,
and of one alone, whose messages nothing hides. It is 512 MiB by default: what a prompt of 4,096
tokens has in bfloat16 with 32 layers and 8 KV heads of 128 dimensions, as 8B models have. Raw is
one prepared NIXL request that writes the same blocks of the same memory, by an agent that does
nothing else. They take turns. A handoff without data is one of a single block that the target holds
already.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import uvloop
from grpc_echo import EchoClient
from measure import hardware, save
from transfer_ends import End, Plan, Target, group_of, make_arena

from baton.core.settings import TransferSettings
from baton.transfer.layout import run_descriptors
from baton.transfer.preflight import unpack

BLOCK_KIB = (64, 256, 1024, 4096)
FABRICS = {"shm": None, "tcp": "tcp"}
# As the issue of raw speed asks, from this block size up.
MIN_SHARE, FROM_KIB = 0.9, 256
MAX_ROUND_TRIPS = 3.0

IN_FLIGHT = 4

Figures = dict[str, float]


class Raw:
    """One prepared request, written again and again."""

    def __init__(self, end: End, target: Target, plan: Plan) -> None:
        # Loaded late: UCX reads its variables, which the transport has set, when it loads.
        from nixl._api import nixl_agent, nixl_agent_config

        arena = end.arena
        config = nixl_agent_config(enable_prog_thread=False, backends=["UCX"])
        self._agent: Any = nixl_agent("bench-raw", config)
        region = [(arena.address, arena.num_blocks * arena.block_bytes, 0, "")]
        self._agent.register_memory(region, "DRAM")
        name = self._agent.add_remote_agent(unpack(target.metadata)[1])
        runs = [(0, arena.block_bytes)]
        mine = run_descriptors(arena, runs)
        theirs = run_descriptors(replace(arena, address=target.address), runs)
        self._handle = self._agent.make_prepped_xfer(
            "WRITE",
            self._agent.prep_xfer_dlist("NIXL_INIT_AGENT", mine, "DRAM"),
            np.array(plan.local, np.int32),
            self._agent.prep_xfer_dlist(name, theirs, "DRAM"),
            np.array(plan.remote, np.int32),
        )

    def write(self) -> float:
        """Seconds until the request is done."""
        began = time.perf_counter()
        state = self._agent.transfer(self._handle)
        while state == "PROC":
            time.sleep(0)
            state = self._agent.check_xfer_state(self._handle)
        if state != "DONE":
            raise RuntimeError("the raw write failed")
        return time.perf_counter() - began


async def measure(settings: dict[str, Any], block_bytes: int, num_bytes: int, runs: int) -> Figures:
    """Goodput for one block size and fabric, beside raw NIXL."""
    num_blocks = num_bytes // block_bytes
    shuffled = random.Random(0)
    local, remote = (tuple(shuffled.sample(range(num_blocks), num_blocks)) for _ in range(2))
    plan = Plan(local, remote)
    arena = make_arena(num_blocks, block_bytes)
    target = await asyncio.to_thread(Target, num_blocks, block_bytes, settings)
    end = End("source", 1, arena, group_of(block_bytes), TransferSettings(**settings))
    await end.start()
    numbers = itertools.count()
    raws: list[float] = []
    alone: list[float] = []
    several: list[float] = []
    try:
        raw = Raw(end, target, plan)
        # The first ones connect.
        for _ in range(runs + 2):
            raws.append(await asyncio.to_thread(raw.write))
            for count, times in ((1, alone), (IN_FLIGHT, several)):
                taken = await hand_over(end, target, list(itertools.islice(numbers, count)), plan)
                times.append(taken / count)
    finally:
        await end.stop()
        target.close()
    for times in (raws, alone, several):
        del times[:2]
    return {
        "raw_gb_per_s": num_bytes / statistics.median(raws) / 1e9,
        "handoff_gb_per_s": num_bytes / statistics.median(several) / 1e9,
        # Of neighbours in time, so that what else the machine does meets both.
        "share": statistics.median(r / h for r, h in zip(raws, several, strict=True)),
        "best_share": min(raws) / min(several),
        "alone_share": statistics.median(r / h for r, h in zip(raws, alone, strict=True)),
    }


async def hand_over(end: End, target: Target, numbers: Sequence[int], plan: Plan) -> float:
    for number in numbers:
        await asyncio.to_thread(target.start_target, number, plan, end.ref)
        await asyncio.to_thread(end.start_source, number, plan, target.ref)
    return await asyncio.to_thread(end.hand_over, numbers, plan)


async def measure_fixed(settings: dict[str, Any], runs: int) -> Figures:
    """A handoff without data, and with one block of 64 KiB, beside a gRPC round trip."""
    block_bytes = 64 * 1024
    arena = make_arena(4, block_bytes)
    target = await asyncio.to_thread(Target, 4, block_bytes, settings)
    end = End("source", 1, arena, group_of(block_bytes), TransferSettings(**settings))
    await end.start()
    echo = EchoClient(target.echo_address)
    numbers = itertools.count()
    times: dict[str, list[float]] = {"grpc": [], "empty": [], "one_block": []}
    try:
        for _ in range(runs + 20):
            times["grpc"].append(await echo.round_trip())
            for name, skip in (("empty", True), ("one_block", False)):
                plan = Plan((0,), (1,), skip)
                times[name].append(await hand_over(end, target, [next(numbers)], plan))
    finally:
        await echo.close()
        await end.stop()
        target.close()
    figures = {f"{name}_ms": statistics.median(taken[20:]) * 1e3 for name, taken in times.items()}
    figures["round_trips"] = figures["empty_ms"] / figures["grpc_ms"]
    figures["one_block_round_trips"] = figures["one_block_ms"] / figures["grpc_ms"]
    return figures


def goodput(fabric: str, checksum: str, kib: int, mib: int, runs: int) -> Figures:
    settings = {"ucx_tls": FABRICS[fabric], "checksum": checksum}
    return uvloop.run(measure(settings, kib * 1024, mib * 2**20, runs))


def fixed_cost(fabric: str, runs: int) -> Figures:
    return uvloop.run(measure_fixed({"ucx_tls": FABRICS[fabric], "checksum": "off"}, runs))


def apart(function: Callable[..., Figures], *args: object) -> Figures:
    """Call it in a process of its own: UCX reads its variables once."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--runs", type=int, default=15, help="handoffs per figure")
    parser.add_argument("--mib", type=int, default=512, help="size of a handoff")
    parser.add_argument("--fixed-runs", type=int, default=500, help="handoffs without data")
    parser.add_argument("--save", action="store_true", help="write results/bench-transfer.json")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{hardware()}, load {load:.1f}; {args.runs} handoffs of {args.mib} MiB per figure")
    fixed = apart(fixed_cost, "shm", args.fixed_runs)
    print(
        f"without data, p50 of {args.fixed_runs}: {fixed['empty_ms']:.2f} ms = "
        f"{fixed['round_trips']:.2f} gRPC round trips of {fixed['grpc_ms']:.2f} ms; "
        f"with one block of 64 KiB {fixed['one_block_ms']:.2f} ms = "
        f"{fixed['one_block_round_trips']:.2f}"
    )
    problems = []
    if fixed["round_trips"] > MAX_ROUND_TRIPS:
        problems.append(f"without data: more than {MAX_ROUND_TRIPS:g} gRPC round trips")
    results: dict[str, Figures] = {}
    for fabric, checksum, kib in itertools.product(FABRICS, ("off", "always"), BLOCK_KIB):
        figures = apart(goodput, fabric, checksum, kib, args.mib, args.runs)
        name = f"{fabric}, {kib} KiB blocks, checksums {checksum}"
        results[name] = figures
        print(
            f"{name:38}: {figures['handoff_gb_per_s']:6.2f} GB/s of raw "
            f"{figures['raw_gb_per_s']:6.2f} = {figures['share']:6.1%} "
            f"(best of each {figures['best_share']:.1%}; alone {figures['alone_share']:.1%})",
            flush=True,
        )
        if checksum == "off" and kib >= FROM_KIB and figures["share"] < MIN_SHARE:
            problems.append(f"{name}: less than {MIN_SHARE:.0%} of raw")
    load = os.getloadavg()[0]
    print(f"load at the end {load:.1f}")
    if args.save:
        print(
            save(
                "bench-transfer",
                {
                    "load": load,
                    "mib": args.mib,
                    "runs": args.runs,
                    "fixed": fixed,
                    "goodput": results,
                },
            )
        )
    if problems:
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
