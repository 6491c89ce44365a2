"""Rows of a decode step and of a prefill chunk, hidden size 4096."""

from __future__ import annotations

from functools import partial

import torch

from baton_kernels import dispatch
from baton_kernels.bench.timing import DEVICE, DTYPE, report
from baton_kernels.reference import rms_norm as reference


def main() -> None:
    for num_rows in (16, 2048):
        x = torch.randn(num_rows, 4096, dtype=DTYPE, device=DEVICE)
        weight = torch.ones(4096, dtype=DTYPE, device=DEVICE)
        report(
            f"rms_norm {num_rows} x 4096",
            2 * x.nbytes,
            dispatch=partial(dispatch.rms_norm, x, weight, 1e-5),
            reference=partial(reference.rms_norm, x, weight, 1e-5),
        )
        report(
            f"add_rms_norm {num_rows} x 4096",
            4 * x.nbytes,
            dispatch=partial(dispatch.add_rms_norm, x, x, weight, 1e-5),
            reference=partial(reference.add_rms_norm, x, x, weight, 1e-5),
        )


if __name__ == "__main__":
    main()
