"""Rows of a decode step and of a prefill chunk, intermediate size 14336."""

from __future__ import annotations

from functools import partial

import torch

from baton_kernels import dispatch
from baton_kernels.bench.timing import DEVICE, DTYPE, report
from baton_kernels.reference import silu_mul as reference


def main() -> None:
    for num_rows in (16, 2048):
        x = torch.randn(num_rows, 2 * 14336, dtype=DTYPE, device=DEVICE)
        report(
            f"silu_mul {num_rows} x 14336",
            x.nbytes * 3 // 2,
            dispatch=partial(dispatch.silu_mul, x),
            reference=partial(reference.silu_mul, x),
        )


if __name__ == "__main__":
    main()
