"""Soak: handoffs over real NIXL between two processes, whose memory and counts stay flat.

    make soak-handoffs ARGS="--handoffs 50000 --save"

Prints a line for each sample. Exits with 1 when a count has grown, or memory by more than 16 MiB.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from measure import save

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from fakes.soaking import COUNTED, MAX_COUNT_GROWTH, Sample, growth, soak

MAX_RSS_GROWTH = 16 * 2**20


def show(sample: Sample) -> None:
    parts = []
    for side in ("source", "target"):
        s = sample[side]
        parts.append(
            f"{side} {s['rss_bytes'] / 2**20:6.1f} MiB, {s['threads']} threads, {s['fds']} files, "
            f"{s['nixl_handles']} handles"
        )
    print(
        f"{sample['handoffs']:>7} in {sample['seconds']:>6.1f} s: " + "; ".join(parts), flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--handoffs", type=int, default=50_000)
    parser.add_argument("--sample-every", type=int, default=1000)
    parser.add_argument("--save", action="store_true", help="write results/soak-handoffs.json")
    args = parser.parse_args()
    samples = asyncio.run(soak(args.handoffs, args.sample_every, show))
    grown = growth(samples)
    print("growth between the first and the last third of the warm samples:", grown)
    if args.save:
        figures = {"handoffs": args.handoffs, "growth": grown, "samples": samples}
        print(save("soak-handoffs", figures))
    for counts in grown.values():
        if counts["rss_bytes"] > MAX_RSS_GROWTH or any(
            counts[name] > MAX_COUNT_GROWTH for name in COUNTED
        ):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
