"""A process that looks up a prefix in a shared index until it is told to stop.

    python index_reader.py DESCRIPTOR

Says "ready", then at its end, as JSON, its answers in order, equal ones in a row once: for each row
how many blocks it has, on all tiers together.
"""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from collections.abc import Iterable
from functools import cache

import numpy as np

from baton.core.block_hash import IndexKeys
from baton.router.shared.index import IndexView, worker_key
from baton.router.shared.layers import LayeredIndex
from baton.router.shared.memory import SharedFile

ROWS = 6
PREFIX = 3000


@cache
def _key(number: int) -> int:
    return int.from_bytes(hashlib.blake2b(number.to_bytes(8, "little"), digest_size=8).digest())


def keys_of(numbers: Iterable[int]) -> IndexKeys:
    return np.array([_key(number) for number in numbers], np.uint64)


def main() -> None:
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    view = IndexView(SharedFile(int(sys.argv[1])))
    index = LayeredIndex(view)
    for row in range(ROWS):
        index.add_worker(row, worker_key(f"w{row}", 1))
    prompt = keys_of(range(PREFIX))
    answers: list[list[int]] = []
    print("ready", flush=True)
    while not stopped:
        found = index.match(prompt, 0.0)
        answer = (found.device + found.host + found.disk).tolist()
        if not answers or answer != answers[-1]:
            answers.append(answer)
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
