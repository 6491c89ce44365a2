"""KV of an 8B Llama's layer (8 heads of 128) stored by token, and its blocks copied."""

from __future__ import annotations

from functools import partial

import torch

from baton_kernels import dispatch
from baton_kernels.bench.timing import DEVICE, DTYPE, report
from baton_kernels.reference import kv_copy as reference

NUM_BLOCKS, BLOCK_SIZE = 512, 16


def main() -> None:
    cache = torch.zeros(NUM_BLOCKS, 8, 2, BLOCK_SIZE, 128, dtype=DTYPE, device=DEVICE)
    for num_tokens in (16, 2048):
        kv = torch.randn(num_tokens, 8, 2, 128, dtype=DTYPE, device=DEVICE)
        slots = torch.randperm(NUM_BLOCKS * BLOCK_SIZE, device=DEVICE)[:num_tokens]
        where = slots // BLOCK_SIZE, slots % BLOCK_SIZE
        report(
            f"store_kv {num_tokens} x 8 x 2 x 128",
            2 * kv.nbytes,
            dispatch=partial(dispatch.store_kv, kv, cache, *where),
            reference=partial(reference.store_kv, kv, cache, *where),
        )
    arena = cache.view(torch.uint8).view(NUM_BLOCKS, -1)
    sources, targets = torch.randperm(NUM_BLOCKS, device=DEVICE)[:32].view(2, 16)
    report(
        f"copy_blocks 16 x {arena.shape[1]} bytes",
        2 * 16 * arena.shape[1],
        dispatch=partial(dispatch.copy_blocks, arena, sources, targets),
        reference=partial(reference.copy_blocks, arena, sources, targets),
    )


if __name__ == "__main__":
    main()
