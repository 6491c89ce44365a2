"""How much of a handoff's transfer hides behind the prompt's compute.

    make bench-overlap

Prompts of 4 equal chunks, one after another. `throttled`: mock engines in this process, over a
wire that needs as long for a chunk as its compute. `shm` and `tcp`: the embedded model in real
processes over NIXL, with whatever bandwidth there is. Each with blocks sent whole (1 layer group),
in 2 and in 4 groups. `exposed` is the time from the last token's compute until the last byte is
written; the last chunk's `share` is a quarter of the time with a write under way.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import subprocess
import time
from collections.abc import Iterator

import httpx
from gateway import await_workers, environment, gateway, process
from measure import hardware, save
from throttled_pair import throttled_pair

from baton.core.settings import EngineSettings
from baton.engine.mock import BYTES_PER_TOKEN

CHUNKS = 4
GROUPS = (1, 2, 4)
MOCK_CHUNK_TOKENS = 512
MOCK_CHUNK_S = 0.2
CHUNK_TOKENS = 512
SETTLE_S = 1.0
# As the issue of overlap asks: of the last chunk's share, and of that with 4 layer groups.
MAX_WHOLE, MAX_GROUPED = 1.15, 0.4

Figures = dict[str, float]


async def throttled(layer_groups: int, runs: int) -> Figures:
    engine = EngineSettings(
        kind="mock",
        kv_blocks=2048,
        max_batch_tokens=MOCK_CHUNK_TOKENS,
        mock_prefill_us_per_token=MOCK_CHUNK_S / MOCK_CHUNK_TOKENS * 1e6,
        mock_step_ms=1.0,
    )
    bytes_per_s = MOCK_CHUNK_TOKENS * BYTES_PER_TOKEN / MOCK_CHUNK_S
    rng = random.Random(layer_groups)
    timings = []
    async with throttled_pair(engine, layer_groups=layer_groups, bytes_per_s=bytes_per_s) as pair:
        # The first one connects.
        for _ in range(runs + 1):
            prompt = [rng.randrange(1, 512) for _ in range(CHUNKS * MOCK_CHUNK_TOKENS)]
            timings.append(await pair.hand_over(prompt))
    timings = timings[1:]
    exposed = statistics.median(t.exposed_s for t in timings)
    busy = statistics.median(t.transfer_s for t in timings)
    hidden = sum(t.hidden_bytes for t in timings) / sum(t.bytes for t in timings)
    share = MOCK_CHUNK_S
    return {
        "exposed_ms": exposed * 1e3,
        "busy_ms": busy * 1e3,
        "share_ms": share * 1e3,
        "exposed_of_share": exposed / share,
        "hidden_share": hidden,
    }


@contextlib.contextmanager
def deployment(layer_groups: int, ucx_tls: str | None) -> Iterator[str]:
    """A gateway, a prefill and a decode worker; the gateway's URL."""
    settings = {
        "ENGINE__MAX_BATCH_TOKENS": str(CHUNK_TOKENS),
        "TRANSFER__LAYER_GROUPS": str(layer_groups),
    }
    if ucx_tls:
        settings["TRANSFER__UCX_TLS"] = ucx_tls
    with contextlib.ExitStack() as stack:
        # An idle decode worker would compute the prompts itself.
        front = stack.enter_context(gateway(ROUTER__DISAGGREGATION="always"))
        for role in ("prefill", "decode"):
            stack.enter_context(
                process(
                    *("-m", "baton.cli.main", "worker", "--role", role, "--worker-id", role),
                    *("--store", front.store, "--token-file", str(front.token_file)),
                    *("--kv-memory", "512MiB", "--log-level", "error"),
                    stderr=subprocess.DEVNULL,
                    env=environment(settings),
                )
            )
        await_workers(front, 2)
        yield front.url


def measured(layer_groups: int, ucx_tls: str | None, runs: int) -> Figures:
    rng = random.Random(layer_groups)
    with deployment(layer_groups, ucx_tls) as url:
        _complete(url, rng)
        before = _settled(url)
        for _ in range(runs):
            _complete(url, rng)
        after = _settled(url)
    spent = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in after}
    # A request that a worker was too slow for may have been computed by the decode worker alone.
    handoffs = spent["baton_handoff_bytes_count"]
    exposed = spent["baton_handoff_exposed_seconds_sum"] / handoffs
    busy = spent["baton_handoff_transfer_seconds_sum"] / handoffs
    hidden, rest = (spent.get(f"baton_handoff_kv_bytes_total {k}", 0.0) for k in _OVERLAPS)
    return {
        "exposed_ms": exposed * 1e3,
        "busy_ms": busy * 1e3,
        "share_ms": busy / CHUNKS * 1e3,
        "exposed_of_share": exposed / (busy / CHUNKS),
        "hidden_share": hidden / (hidden + rest),
        "bytes": (hidden + rest) / handoffs,
        "handoffs": handoffs,
    }


_OVERLAPS = ("hidden", "exposed")


def _complete(url: str, rng: random.Random) -> None:
    body = {
        "model": "baton-tiny",
        "prompt": [rng.randrange(10, 2000) for _ in range(CHUNKS * CHUNK_TOKENS)],
        # Long enough that the source's report comes before the request's end.
        "max_tokens": 32,
        "ignore_eos": True,
    }
    httpx.post(f"{url}/v1/completions", json=body, timeout=120).raise_for_status()


def _settled(url: str) -> Figures:
    """Sums of the handoff metrics, and the bytes by overlap, once no more come in."""
    while True:
        found = _sums(url)
        time.sleep(SETTLE_S)
        if found == _sums(url):
            return found


def _sums(url: str) -> Figures:
    found: Figures = {}
    for line in httpx.get(f"{url}/metrics", timeout=10).text.splitlines():
        if line.startswith("baton_handoff"):
            name, value = line.rsplit(" ", 1)
            base, _, labels = name.partition("{")
            overlap = next((k for k in _OVERLAPS if f'overlap="{k}"' in labels), "")
            key = f"{base} {overlap}".strip()
            found[key] = found.get(key, 0.0) + float(value)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--runs", type=int, default=10, help="prompts per figure")
    runs = parser.parse_args().runs
    print(f"{hardware()}; prompts of {CHUNKS} chunks, {runs} per figure")
    results: dict[str, dict[str, Figures]] = {}
    for name, ucx_tls in (("throttled", ""), ("shm", None), ("tcp", "tcp")):
        results[name] = {}
        for groups in GROUPS:
            if name == "throttled":
                figures = asyncio.run(throttled(groups, max(3, runs // 2)))
            else:
                figures = measured(groups, ucx_tls, runs)
            results[name][str(groups)] = figures
            print(
                f"{name:9}  {groups} groups: exposed {figures['exposed_ms']:8.2f} ms = "
                f"{figures['exposed_of_share']:5.2f} of the last chunk's share "
                f"({figures['share_ms']:.2f} ms), "
                f"{figures['hidden_share']:6.1%} of the bytes hidden"
            )
    whole, grouped = (results["throttled"][g]["exposed_of_share"] for g in ("1", "4"))
    save("bench-overlap", {"chunks": CHUNKS, "runs": runs, "layer_groups": results})
    if whole > MAX_WHOLE or grouped > MAX_GROUPED:
        raise SystemExit(
            f"throttled: {whole:.2f} of the share (at most {MAX_WHOLE}), with 4 layer groups "
            f"{grouped:.2f} (at most {MAX_GROUPED})"
        )


if __name__ == "__main__":
    main()
