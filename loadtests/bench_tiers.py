"""Time to first token of a long prompt that is sent again after its blocks were evicted.

    make bench-tiers

One engine in this process, a random model of Llama's shape in float32, a pool that holds one such
prompt and a half. The same prompts are sent to an engine without tiers, which computes them again,
to one with room in host memory, and to one with a disk, both with exact copies; the disk's also
in int8. Files were just written, so the system serves them from its page cache: the disk row shows
the cost of the path, not of a device.
"""

from __future__ import annotations

import argparse
import math
import queue
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from measure import save

from baton.core.request import Request, SamplingParams
from baton.core.settings import EngineSettings, ModelSettings, TierSettings
from baton.engine.engine import Engine
from baton.engine.model_runner import ModelRunner
from baton.worker.tiers import build_tiers

DIGEST = "be" * 16
BLOCK = 16
# Copies count as made when none has ended for so long.
QUIET_S = 2.0
MODEL: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
}


def make_model(folder: Path) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**MODEL)
    model = transformers.AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")


class Bench:
    """One engine with its tiers, driven from this thread."""

    def __init__(self, folder: Path, prompt_tokens: int, threads: int, tiers: TierSettings) -> None:
        settings = EngineSettings(
            block_size=BLOCK,
            kv_blocks=prompt_tokens * 3 // 2 // BLOCK,
            max_batch_tokens=1024,
            num_threads=threads,
        )
        runner = ModelRunner(ModelSettings(source=str(folder), dtype="float32"), settings)
        self.block_bytes = runner.groups[0].block_bytes
        self.engine = Engine(settings, runner, DIGEST)
        self.inbox: queue.Queue[Callable[[], None]] = queue.Queue()
        self.mover = build_tiers(
            tiers, self.engine, runner.groups, DIGEST, runner.arenas(), self.inbox.put
        )
        self._number = 0

    def first_token(self, prompt: list[int]) -> tuple[float, int]:
        """Seconds until the prompt's first token, and how many of its tokens were cached."""
        self._number += 1
        sampling = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
        request = Request("r", "m", tuple(prompt), sampling, 1, math.inf, {0: ()})
        started = time.perf_counter()
        self.engine.add(("bench", self._number), request)
        cached = 0
        while True:
            while not self.engine.has_work:
                self.inbox.get(timeout=60)()
            self._drain()
            out = self.engine.step()
            cached += sum(s.cached_tokens for s in out.scheduled)
            if out.rows:
                seconds = time.perf_counter() - started
                self._settle()
                return seconds, cached

    def _drain(self) -> None:
        while not self.inbox.empty():
            self.inbox.get()()

    def _settle(self) -> None:
        """Until nothing has happened for a while: copies are made."""
        while True:
            while self.engine.has_work:
                self.engine.step()
            try:
                self.inbox.get(timeout=QUIET_S)()
            except queue.Empty:
                return


def measure(
    folder: Path, prompts: list[list[int]], threads: int, tiers: TierSettings
) -> dict[str, Any]:
    """Each prompt twice, the second time after all others."""
    bench = Bench(folder, len(prompts[0]), threads, tiers)
    try:
        bench.first_token(prompts[0][: 2 * BLOCK])
        first = [bench.first_token(prompt)[0] for prompt in prompts]
        again = [bench.first_token(prompt) for prompt in prompts]
    finally:
        if bench.mover is not None:
            bench.mover.close()
    return {
        "first_ms": round(1e3 * statistics.median(first), 1),
        "again_ms": round(1e3 * statistics.median(seconds for seconds, _ in again), 1),
        "again_cached_tokens": min(cached for _, cached in again),
        "block_bytes": bench.block_bytes,
        "tiers": {
            load.tier.name.lower(): {
                "demotions": load.demotions,
                "hits": load.hits,
                "drops": load.drops,
                "failures": load.failures,
            }
            for load in bench.engine.load().tiers
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt-tokens", type=int, default=4096)
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(1)
    prompts = [
        torch.randint(3, MODEL["vocab_size"], (args.prompt_tokens,), generator=generator).tolist()
        for _ in range(args.prompts)
    ]
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp) / "model"
        folder.mkdir()
        make_model(folder)
        disk: dict[str, Any] = {"disk_bytes": 8 * 2**30, "promote_wait_s": 30.0}
        host: dict[str, Any] = {"host_bytes": 4 * 2**30, "promote_wait_s": 30.0}
        runs = {
            "recompute": TierSettings(),
            "host": TierSettings(**host),
            "disk": TierSettings(**disk, disk_path=Path(temp) / "disk"),
            "disk_int8": TierSettings(**disk, disk_path=Path(temp) / "int8", codec="int8"),
        }
        figures = {
            name: measure(folder, prompts, args.threads, tiers) for name, tiers in runs.items()
        }
    base = figures["recompute"]
    for name, figure in figures.items():
        figure["speedup"] = round(base["again_ms"] / figure["again_ms"], 2)
        print(f"{name:10} {figure}")
    path = save(
        "bench-tiers",
        {"prompt_tokens": args.prompt_tokens, "model": MODEL, "seed": 1, **figures},
    )
    print(path)


if __name__ == "__main__":
    main()
