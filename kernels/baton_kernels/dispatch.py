"""Every op, by the device of its tensors: Triton on CUDA, the reference elsewhere.

Shapes and formulas are in `reference`. Triton is imported when the first CUDA tensor comes, since
it takes a while and CPU workers never need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from baton_kernels.reference import kv_copy as kv_copy_reference
from baton_kernels.reference import paged_attention as paged_attention_reference
from baton_kernels.reference import rms_norm as rms_norm_reference
from baton_kernels.reference import rope as rope_reference
from baton_kernels.reference import silu_mul as silu_mul_reference

# What `plan_attention` returns depends on the device; callers only pass it on.
AttentionPlan = Any


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    if x.is_cuda:
        from baton_kernels.ops import rms_norm as ops

        return ops.rms_norm(x, weight, eps)
    return rms_norm_reference.rms_norm(x, weight, eps)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    if x.is_cuda:
        from baton_kernels.ops import rms_norm as ops

        return ops.add_rms_norm(x, residual, weight, eps)
    return rms_norm_reference.add_rms_norm(x, residual, weight, eps)


def silu_mul(x: torch.Tensor) -> torch.Tensor:
    if x.is_cuda:
        from baton_kernels.ops import silu_mul as ops

        return ops.silu_mul(x)
    return silu_mul_reference.silu_mul(x)


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    if x.is_cuda:
        from baton_kernels.ops import rope as ops

        return ops.rope(x, cos, sin)
    return rope_reference.rope(x, cos, sin)


def store_kv(
    kv: torch.Tensor, kv_cache: torch.Tensor, block_ids: torch.Tensor, offsets: torch.Tensor
) -> None:
    if kv.is_cuda:
        from baton_kernels.ops import kv_copy as ops

        return ops.store_kv(kv, kv_cache, block_ids, offsets)
    return kv_copy_reference.store_kv(kv, kv_cache, block_ids, offsets)


def copy_blocks(arena: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor) -> None:
    if arena.is_cuda:
        from baton_kernels.ops import kv_copy as ops

        return ops.copy_blocks(arena, sources, targets)
    return kv_copy_reference.copy_blocks(arena, sources, targets)


def plan_attention(
    kv_cache: torch.Tensor,
    num_q_heads: int,
    query_lens: Sequence[int],
    seq_lens: Sequence[int],
    block_tables: Sequence[np.ndarray],
) -> AttentionPlan:
    if kv_cache.is_cuda:
        from baton_kernels.ops import paged_attention as ops

        return ops.plan_attention(kv_cache, num_q_heads, query_lens, seq_lens, block_tables)
    return paged_attention_reference.plan_attention(
        kv_cache, num_q_heads, query_lens, seq_lens, block_tables
    )


def paged_attention(
    q: torch.Tensor, kv_cache: torch.Tensor, plan: AttentionPlan, scale: float
) -> torch.Tensor:
    if q.is_cuda:
        from baton_kernels.ops import paged_attention as ops

        return ops.paged_attention(q, kv_cache, plan, scale)
    return paged_attention_reference.paged_attention(q, kv_cache, plan, scale)
