"""Queries and keys of an 8B Llama: 32 + 8 heads of 128."""

from __future__ import annotations

from functools import partial

import torch

from baton_kernels import dispatch
from baton_kernels.bench.timing import DEVICE, DTYPE, report
from baton_kernels.reference import rope as reference


def main() -> None:
    for num_tokens in (16, 2048):
        x = torch.randn(num_tokens, 40, 128, dtype=DTYPE, device=DEVICE)
        angles = torch.rand(num_tokens, 64, device=DEVICE)
        report(
            f"rope {num_tokens} x 40 x 128",
            2 * x.nbytes + 2 * angles.nbytes,
            dispatch=partial(dispatch.rope, x, angles, angles),
            reference=partial(reference.rope, x, angles, angles),
        )


if __name__ == "__main__":
    main()
