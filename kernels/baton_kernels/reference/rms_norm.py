"""Root mean square normalisation (Zhang and Sennrich, https://arxiv.org/abs/1910.07467).

    y = x / sqrt(mean(x^2) + eps) * weight

The mean runs over the last dimension. 16-bit inputs are computed in float32 and rounded once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise `x` [..., N] by `weight` [N]; a new contiguous tensor of x's shape and type."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(rms_norm(x + residual), x + residual)` for [..., N]; the sum is rounded to x's type."""
    total = x + residual
    return rms_norm(total, weight, eps), total
