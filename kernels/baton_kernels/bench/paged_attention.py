"""Attention of an 8B Llama's layer: 32 query and 8 KV heads of 128, blocks of 16 tokens."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from baton_kernels import dispatch
from baton_kernels.bench.timing import DEVICE, DTYPE, report

HEADS, KV_HEADS, DIM, BLOCK_SIZE = 32, 8, 128, 16


def main() -> None:
    for name, query_lens, seq_lens in (
        ("decode 1 x 1024", [1], [1024]),
        ("decode 16 x 1024", [1] * 16, [1024] * 16),
        ("prefill 512 after 512", [512], [1024]),
    ):
        num_blocks = [n // BLOCK_SIZE for n in seq_lens]
        shape = (sum(num_blocks), KV_HEADS, 2, BLOCK_SIZE, DIM)
        cache = torch.randn(shape, dtype=DTYPE, device=DEVICE)
        order = np.random.default_rng(0).permutation(shape[0]).astype(np.int32)
        tables = np.split(order, np.cumsum(num_blocks)[:-1])
        plan = dispatch.plan_attention(cache, HEADS, query_lens, seq_lens, tables)
        q = torch.randn(sum(query_lens), HEADS, DIM, dtype=DTYPE, device=DEVICE)
        report(
            f"paged_attention {name}",
            cache.nbytes + 2 * q.nbytes,
            dispatch=partial(dispatch.paged_attention, q, cache, plan, DIM**-0.5),
        )


if __name__ == "__main__":
    main()
