"""The prefix index that gateway processes share, beside one of a process' own.

A part of bench_router: this process writes, another one (this file, run by itself) looks up, in the
shared index and in one of its own with the same blocks, in turns, so that both meet the same
machine. The writer is at rest, takes the events of 100 prompts a second, or all that it can.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from measure import resident_bytes

from baton.core.block_hash import IndexKeys
from baton.router.prefix_index import IndexTier, PrefixIndex
from baton.router.shared.index import IndexView, IndexWriter, worker_key
from baton.router.shared.layers import LayeredIndex
from baton.router.shared.memory import SharedFile

ROWS, ROUNDS, LOOKUPS = 100, 3, 200
# Prompts of 100,000 tokens in blocks of 16, four fifths of them shared.
FAMILIES, COPIES, SHARED_BLOCKS, OWN_BLOCKS = 20, 4, 5000, 1250
PROMPTS_PER_S = 100
NUM_LEAST_BLOCKS = FAMILIES * COPIES * SHARED_BLOCKS
DEVICE = IndexTier.DEVICE
# Who takes what is stored: row and keys.
Store = Callable[[int, IndexKeys], object]


def families() -> list[npt.NDArray[np.uint64]]:
    rng = np.random.default_rng(1)
    return [rng.integers(1, 2**64, SHARED_BLOCKS, np.uint64) for _ in range(FAMILIES)]


def fill(store: Store, num_blocks: int) -> None:
    """The same blocks whenever it is called."""
    for number, family in enumerate(families()):
        for copy in range(COPIES):
            store((COPIES * number + copy) % ROWS, family)
    rng = np.random.default_rng(2)
    for number in range((num_blocks - NUM_LEAST_BLOCKS) // 1000):
        store(number % ROWS, rng.integers(1, 2**64, 1000, np.uint64))


class CountingView(IndexView):
    """Counts lookups that could not be had."""

    num_none = 0

    def read(self, num_rows: int, look: Callable[[], Any]) -> Any:
        found = super().read(num_rows, look)
        self.num_none += found is None
        return found


def reader(fd: int, num_blocks: int) -> None:
    """Answers each line of its input, the name of an index, with what lookups in it cost."""
    view = CountingView(SharedFile(fd))
    shared, own = LayeredIndex(view), PrefixIndex()
    for row in range(ROWS):
        shared.add_worker(row, worker_key(f"worker-{row}", 1))
    before = resident_bytes(os.getpid())
    fill(lambda row, keys: own.store(row, DEVICE, keys), num_blocks)
    print(json.dumps({"own_bytes": resident_bytes(os.getpid()) - before}), flush=True)
    prefixes, rng = families(), np.random.default_rng(3)
    # Something is expected, as always where there is traffic.
    for index in (shared, own):
        index.predict(0, rng.integers(1, 2**64, OWN_BLOCKS, np.uint64), 0.0)
    for line in sys.stdin:
        index = own if line.strip() == "own" else shared
        view.num_none = 0
        cpu_s = []
        for number in range(LOOKUPS):
            new = rng.integers(1, 2**64, OWN_BLOCKS, np.uint64)
            keys = np.concatenate((prefixes[number % FAMILIES], new))
            start = time.thread_time()
            found = index.match(keys, 0.0, ROWS)
            cpu_s.append(time.thread_time() - start)
            assert found.best in (0, SHARED_BLOCKS)
        figures = {
            "cpu_ms": 1e3 * float(np.mean(cpu_s)),
            "cpu_p99_ms": 1e3 * float(np.percentile(cpu_s, 99)),
            "given_up": view.num_none,
        }
        print(json.dumps(figures), flush=True)


def events(writer: IndexWriter, pause_s: float) -> Iterator[None]:
    """What workers say of one prompt after the other: its blocks, and as many that had to go."""
    rng = np.random.default_rng(4)
    old = [(row, rng.integers(1, 2**64, OWN_BLOCKS, np.uint64)) for row in range(ROWS)]
    for row, keys in old:
        writer.store(row, DEVICE, keys)
    next_at = time.monotonic()
    while True:
        row, gone = old.pop(0)
        writer.remove(row, DEVICE, gone)
        old.append((row, rng.integers(1, 2**64, OWN_BLOCKS, np.uint64)))
        writer.store(*old[-1][:1], DEVICE, old[-1][1])
        next_at += pause_s
        time.sleep(max(0.0, next_at - time.monotonic()))
        yield


def bench_sharing(options: argparse.Namespace) -> dict[str, Any]:
    """Lookups in a process that shares the index, and memory for two processes."""
    file = SharedFile.create()
    before = resident_bytes(os.getpid())
    writer = IndexWriter(file)
    for row in range(ROWS):
        writer.add_worker(row, worker_key(f"worker-{row}", 1))
    fill(lambda row, keys: writer.store(row, DEVICE, keys), options.blocks)
    in_file = 512 * os.fstat(file.fd).st_blocks
    # What only the writer has: sets by their members.
    beside = max(0, resident_bytes(os.getpid()) - before - in_file)
    command = [sys.executable, __file__, str(file.fd), str(options.blocks)]
    loads: dict[str, Iterator[None] | None] = {
        "rest": None,
        "events": events(writer, 1 / PROMPTS_PER_S),
        "flat_out": events(writer, 0.0),
    }
    rounds: dict[str, list[dict[str, float]]] = {}
    with subprocess.Popen(
        command, pass_fds=[file.fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        own_bytes = json.loads(process.stdout.readline())["own_bytes"]
        os.set_blocking(process.stdout.fileno(), False)
        for _ in range(ROUNDS):
            for index, load in (("own", "rest"), *(("shared", load) for load in loads)):
                process.stdin.write(index + "\n")
                process.stdin.flush()
                while not (line := process.stdout.readline()):
                    feed = loads[load]
                    time.sleep(0.01) if feed is None else next(feed)
                rounds.setdefault(f"{index}_{load}", []).append(json.loads(line))
        process.stdin.close()
    figures = {
        name: {key: float(np.median([one[key] for one in some])) for key in some[0]}
        for name, some in rounds.items()
    }
    own = figures["own_rest"]
    print(
        f"lookups of {SHARED_BLOCKS + OWN_BLOCKS} keys in an index of {options.blocks / 1e6:.1f} M "
        "blocks that two processes share, CPU beside one of the process' own:"
    )
    print(f"  own: mean {own['cpu_ms']:.2f} ms, p99 {own['cpu_p99_ms']:.2f} ms")
    for load in loads:
        seen = figures[f"shared_{load}"]
        print(
            f"  shared, writer at {load}: mean {seen['cpu_ms'] / own['cpu_ms']:.2f} x, p99 "
            f"{seen['cpu_p99_ms'] / own['cpu_p99_ms']:.2f} x, {seen['given_up']:.0f} of {LOOKUPS} "
            "without an answer"
        )
    both, apart = in_file + beside, 2 * own_bytes
    print(f"  memory of two processes: {both / 1e6:.0f} MB, with one each {apart / 1e6:.0f} MB")
    return {**figures, "shared_bytes": both, "two_own_bytes": apart, "blocks": options.blocks}


if __name__ == "__main__":
    reader(int(sys.argv[1]), int(sys.argv[2]))
