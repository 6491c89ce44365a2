# Triton types kernels itself.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Rotary position embedding in place; formula in `reference.rope`.

One program rotates all heads of one token. Moves 2 * H * D elements for a token, besides D of the
tables.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from baton_kernels.ops.wide import wide_type


@triton.jit
def _rope_kernel(
    x_ptr,  # [T, H, 2 * HALF], strides (x_token_stride, x_head_stride, 1)
    cos_ptr,  # [T, HALF] contiguous
    sin_ptr,
    x_token_stride,
    x_head_stride,
    num_heads,
    half,
    WIDE: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    heads = tl.arange(0, BLOCK_H)[:, None]
    columns = tl.arange(0, BLOCK_D)[None, :]
    in_table = columns < half
    inside = (heads < num_heads) & in_table
    cos = tl.load(cos_ptr + token * half + columns, mask=in_table, other=0.0).to(WIDE)
    sin = tl.load(sin_ptr + token * half + columns, mask=in_table, other=0.0).to(WIDE)
    first_ptr = x_ptr + token * x_token_stride + heads * x_head_stride + columns
    first = tl.load(first_ptr, mask=inside, other=0.0).to(WIDE)
    second = tl.load(first_ptr + half, mask=inside, other=0.0).to(WIDE)
    element = x_ptr.dtype.element_ty
    tl.store(first_ptr, (first * cos - second * sin).to(element), mask=inside)
    tl.store(first_ptr + half, (second * cos + first * sin).to(element), mask=inside)


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Rotate `x` [T, H, D] in place by `cos` and `sin` [T, D/2], contiguous."""
    num_tokens, num_heads, dim = x.shape
    if num_tokens == 0:
        return
    half = dim // 2
    _rope_kernel[(num_tokens,)](
        x,
        cos,
        sin,
        x.stride(0),
        x.stride(1),
        num_heads,
        half,
        WIDE=wide_type(x.dtype),
        BLOCK_H=triton.next_power_of_2(num_heads),
        BLOCK_D=triton.next_power_of_2(half),
    )
