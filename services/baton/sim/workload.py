"""Requests to replay: traces in Mooncake's format, one JSON document per line, maybe gzipped.

`timestamp` (ms), `input_length`, `output_length` (tokens) and `hash_ids`: one number per block of
512 tokens, the last one maybe partial. Equal numbers mean equal prefixes up to there.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baton.core.block_hash import HASH_BYTES

BLOCK_SIZE = 512
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """Arrives at `at` seconds; `ids` name the blocks of its prompt, the partial one included.

    `hashes` are of the full blocks, as long as those that the engine makes: made once, however
    often the trace is replayed.
    """

    number: int
    at: float
    num_tokens: int
    num_output: int
    ids: tuple[int, ...]
    hashes: tuple[bytes, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        hashes = tuple(map(block_hash, self.ids[: self.num_tokens // BLOCK_SIZE]))
        object.__setattr__(self, "hashes", hashes)


def block_hash(number: int) -> bytes:
    """A hash for a block that the trace knows by number. Its first half is spread over 64 bits."""
    x = (number + 1) * 0x9E3779B97F4A7C15 & _MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _MASK
    return (x ^ x >> 31).to_bytes(8, "little") + number.to_bytes(HASH_BYTES - 8, "little")


def read_trace(path: Path) -> list[TraceRequest]:
    """All requests of a file, in order of arrival. Raises ValueError for a line that is none."""
    opener = gzip.open if path.suffix == ".gz" else open
    requests = []
    with opener(path, "rt") as lines:
        for number, line in enumerate(lines):
            try:
                record = json.loads(line)
                requests.append(_request(number, record))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path.name}, line {number + 1}: {error!r}") from error
    return sorted(requests, key=lambda request: (request.at, request.number))


def lru_reuse(requests: Sequence[TraceRequest], num_blocks: int) -> float:
    """Share of the requests' blocks that one cache of `num_blocks` would have, if it were alone.

    A block is there when it and all before it are; least recently used go first, a prompt's end
    before its start. Partial blocks count as blocks, as the trace numbers them.
    """
    # A dictionary in order of use.
    cache: dict[int, None] = {}
    hits = total = 0
    for request in requests:
        ids = request.ids
        total += len(ids)
        for block in ids:
            if block not in cache:
                break
            hits += 1
        for block in reversed(ids):
            cache.pop(block, None)
            cache[block] = None
        while len(cache) > num_blocks:
            del cache[next(iter(cache))]
    return hits / total if total else 0.0


def _request(number: int, record: dict[str, Any]) -> TraceRequest:
    ids = tuple(map(int, record["hash_ids"]))
    num_tokens, num_output = int(record["input_length"]), int(record["output_length"])
    if num_tokens < 1 or num_output < 1:
        raise ValueError("a request has at least one token of prompt and output")
    if len(ids) != -(-num_tokens // BLOCK_SIZE):
        raise ValueError(f"{num_tokens} tokens have not {len(ids)} blocks")
    return TraceRequest(number, record["timestamp"] / 1000.0, num_tokens, num_output, ids)
