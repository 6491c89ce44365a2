"""Integrity fuzz: handoffs with bad references and flipped bits over real NIXL; none may be served.

    make fuzz-handoffs ARGS="--handoffs 10000 --seed 1"

Two worker processes with checksum mode `always`. Every kind of injection gets its share.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from measure import hardware, save

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from fakes.fuzzing import fuzz


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--handoffs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="write results/fuzz-handoffs.json")
    args = parser.parse_args()
    began = time.monotonic()
    tally = asyncio.run(fuzz(args.handoffs, args.seed))
    print(tally.table())
    print(
        f"\nseed {args.seed}, {hardware()}, {time.monotonic() - began:.0f} s: {tally.injected} "
        f"injected, {tally.served} served; {tally.unharmed} unharmed ones beside them went through"
    )
    if args.save:
        counts = {name: dict(count) for name, count in tally.counts.items()}
        figures = {"seed": args.seed, "injected": tally.injected, "served": tally.served}
        print(save("fuzz-handoffs", {**figures, "kinds": counts}))
    if tally.served:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
