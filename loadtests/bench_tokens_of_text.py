"""Part `text` of `make bench-router`: text in, tokens out, new and known.

The text is Python's own standard library, cut into turns of a chat as the embedded model's template
would write them. The tokenizer alone and the gateway's encoder get the same new texts in turn, each
with a tokenizer of its own, since it learns words; then every chat comes again with one more turn.
CPU time of this thread, so other work on the machine does not count.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers

import baton.embedded
from baton.gateway.text.incremental import IncrementalEncoder
from baton.gateway.text.tokenizer import DEFAULT_CACHE_BYTES

CHATS, CHAT_CHARS = 12, 400_000
TURN_CHARS = (60, 200, 500, 1500, 4000)
# Known texts take so little time that they are read several times.
REPEATS = 5
FOLDER = Path(baton.embedded.__file__).parent / "baton_tiny"


def chats(rng: random.Random) -> Iterator[str]:
    """Prompts of `CHAT_CHARS` characters, no two alike."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    source = "".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
    at = 0
    for _ in range(CHATS):
        turns, length = ["<|begin_of_text|>"], 0
        while length < CHAT_CHARS:
            count = rng.choice(TURN_CHARS)
            role = ("user", "assistant")[len(turns) % 2]
            turns.append(f"<|im_start|>{role}\n{source[at : at + count]}<|im_end|>\n")
            length += count
            at = (at + count) % (len(source) - max(TURN_CHARS))
        yield "".join(turns)


def cpu_s(work: Callable[[], Any]) -> float:
    """Seconds of this thread's CPU."""
    before = time.thread_time()
    work()
    return time.thread_time() - before


def bench_text() -> dict[str, Any]:
    """Megabytes per CPU-second."""
    alone = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    raw = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    encoder = IncrementalEncoder(raw, json.loads(raw.to_str()), DEFAULT_CACHE_BYTES)
    alone_s: list[float] = []
    new_s: list[float] = []
    known_s: list[float] = []
    sizes = []
    for number, text in enumerate(chats(random.Random(6))):

        def as_it_is(text: str = text) -> Any:
            return alone.encode_batch_fast([text], add_special_tokens=False)[0].ids

        def as_new(text: str = text) -> Any:
            return encoder.encode([text], False)

        # Whoever comes second finds the text in the processor's caches.
        for work, times in ((as_it_is, alone_s), (as_new, new_s))[:: 1 if number % 2 else -1]:
            times.append(cpu_s(work))
        grown = text + f"<|im_start|>user\nand {number}?<|im_end|>\n"
        known_s.append(min(cpu_s(partial(encoder.encode, [grown], False)) for _ in range(REPEATS)))
        assert encoder.encode([text], False) == [as_it_is()]
        sizes.append(len(text.encode()))
    megabytes = sum(sizes) / 1e6
    rate_alone, rate_new, rate_known = (megabytes / sum(s) for s in (alone_s, new_s, known_s))
    print(f"{CHATS} chats of {CHAT_CHARS} characters, MB per CPU-second:")
    print(f"  tokenizer alone {rate_alone:.2f}, new text {rate_new:.2f}", end="")
    print(f" = {rate_new / rate_alone:.0%} (at least 90 %), known {rate_known:.0f} (at least 50)")
    return {
        "tokenizer_mb_per_s": round(rate_alone, 2),
        "new_text_mb_per_s": round(rate_new, 2),
        "new_text_share": round(rate_new / rate_alone, 3),
        "known_text_mb_per_s": round(rate_known, 1),
    }
