"""The gate of a SwiGLU feed-forward layer (Shazeer, https://arxiv.org/abs/2002.05202).

y = silu(gate) * up,  silu(x) = x / (1 + exp(-x))
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def silu_mul(x: torch.Tensor) -> torch.Tensor:
    """`x` [T, 2 * N] holds gate and up side by side; returns [T, N]."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up
