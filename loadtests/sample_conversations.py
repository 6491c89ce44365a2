"""Make loadtests/workloads/conversations.jsonl: conversations that grow, in Mooncake's format.

    python loadtests/sample_conversations.py

Small and invented: it shows that `make bench-routing` works, its figures say nothing of real load.
"""

from __future__ import annotations

import json
import random
from itertools import count
from pathlib import Path

BLOCK = 512
NUM_CONVERSATIONS = 120
SEED = 7
TARGET = Path(__file__).parent / "workloads" / "conversations.jsonl"


def conversations() -> list[dict[str, object]]:
    """Requests in order of arrival: each turn's prompt begins with the turns before it."""
    rng = random.Random(SEED)
    numbers = count(1)
    records = []
    for _ in range(NUM_CONVERSATIONS):
        at_ms = rng.uniform(0, 120_000)
        # Block 0 is everybody's system prompt.
        full, length = [0], BLOCK
        for _ in range(rng.choice((1, 2, 3, 4, 6))):
            length += int(rng.lognormvariate(7.5, 0.9)) + 1
            full += [next(numbers) for _ in range(length // BLOCK - len(full))]
            num_output = min(1000, int(rng.lognormvariate(5.0, 0.8)) + 1)
            tail = [next(numbers)] if length % BLOCK else []
            records.append(
                {
                    "timestamp": round(at_ms),
                    "input_length": length,
                    "output_length": num_output,
                    "hash_ids": full + tail,
                }
            )
            length += num_output
            at_ms += num_output * 15 + rng.expovariate(1 / 15_000)
    return sorted(records, key=lambda record: record["timestamp"])  # type: ignore[arg-type, return-value]


def main() -> None:
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text("".join(json.dumps(record) + "\n" for record in conversations()))


if __name__ == "__main__":
    main()
