"""The type that kernels compute in."""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl


def wide_type(dtype: torch.dtype) -> Any:
    """float64 for float64, float32 for everything narrower."""
    return tl.float64 if dtype == torch.float64 else tl.float32
