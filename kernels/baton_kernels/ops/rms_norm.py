# Triton types kernels itself.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Root mean square normalisation; formula in `reference.rms_norm`.

One program normalises one row. Statistics are float32, or float64 for float64 inputs. Moves
2 * N elements for a row, 4 * N with a residual.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from baton_kernels.ops.wide import wide_type


@triton.jit
def _rms_norm_kernel(
    x_ptr,  # [T, H, N], strides (x_token_stride, x_head_stride, 1)
    residual_ptr,  # [T * H, N] contiguous
    weight_ptr,  # [N]
    out_ptr,  # [T * H, N] contiguous
    total_ptr,  # [T * H, N] contiguous
    x_token_stride,
    x_head_stride,
    num_heads,
    size,
    eps,
    HAS_RESIDUAL: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    token, head = row // num_heads, row % num_heads
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    x_row = x_ptr + token * x_token_stride + head * x_head_stride
    x = tl.load(x_row + columns, mask=inside, other=0.0)
    if HAS_RESIDUAL:
        # Rounded to the inputs' type first, as two separate steps would.
        residual = tl.load(residual_ptr + row * size + columns, mask=inside, other=0.0)
        x = (x.to(WIDE) + residual.to(WIDE)).to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + row * size + columns, x, mask=inside)
    x = x.to(WIDE)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / size + eps)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(WIDE)
    y = x * scale * weight
    tl.store(out_ptr + row * size + columns, y.to(out_ptr.dtype.element_ty), mask=inside)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise `x` [T, N] or [T, H, N], strided but for the last dimension, by `weight` [N]."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, None, weight, out, None, eps)
    return out


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(rms_norm(x + residual), x + residual)` in one pass over [T, N]."""
    out, total = torch.empty_like(residual), torch.empty_like(residual)
    _launch(x, residual.contiguous(), weight, out, total, eps)
    return out, total


def _launch(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    out: torch.Tensor,
    total: torch.Tensor | None,
    eps: float,
) -> None:
    if x.numel() == 0:
        return
    shaped = x.unsqueeze(1) if x.dim() == 2 else x
    num_tokens, num_heads, size = shaped.shape
    block = triton.next_power_of_2(size)
    _rms_norm_kernel[(num_tokens * num_heads,)](
        shaped,
        shaped if residual is None else residual,
        weight,
        out,
        out if total is None else total,
        shaped.stride(0),
        shaped.stride(1),
        num_heads,
        size,
        eps,
        HAS_RESIDUAL=residual is not None,
        WIDE=wide_type(x.dtype),
        BLOCK=block,
        num_warps=max(1, min(8, block // 256)),
    )
