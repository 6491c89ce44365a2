"""Rotary position embedding in the half-split layout (Su et al., https://arxiv.org/abs/2104.09864).

    y[i]       = x[i] * cos[i] - x[i + D/2] * sin[i]
    y[i + D/2] = x[i + D/2] * cos[i] + x[i] * sin[i]      for i < D/2

The angles come in as tables gathered for each token, so that scaled variants need no other kernel.
"""

from __future__ import annotations

import torch


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Rotate `x` [T, H, D] in place by `cos` and `sin` [T, D/2].

    `x` may be a slice with any strides but a contiguous last dimension. The tables are float32, or
    float64 when x is; 16-bit inputs are computed in float32 and rounded once.
    """
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    # Both halves are computed before either is written: for wide types `first` aliases x.
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    x.copy_(rotated)
