# Triton types kernels itself.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Writing to KV blocks; what it does is in `reference.kv_copy`.

`store_kv` moves 4 * H * D elements for a token. `copy_blocks` reads and writes each block twice:
all sources are read before any target is written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _store_kv_kernel(
    kv_ptr,  # [T, H, 2, D], strides (kv_token_stride, kv_head_stride, kv_plane_stride, 1)
    cache_ptr,  # [num_blocks, H, 2, block_size, D], strides (cache_block_stride, ..., D, 1)
    block_ids_ptr,  # [T]
    offsets_ptr,  # [T]
    kv_token_stride,
    kv_head_stride,
    kv_plane_stride,
    cache_block_stride,
    block_size,
    num_planes,
    dim,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    planes = tl.arange(0, BLOCK_P)[:, None]  # K and V of each head: head = plane // 2
    columns = tl.arange(0, BLOCK_D)[None, :]
    inside = (planes < num_planes) & (columns < dim)
    block = tl.load(block_ids_ptr + token)
    offset = tl.load(offsets_ptr + token)
    source = kv_ptr + token * kv_token_stride
    source += (planes // 2) * kv_head_stride + (planes % 2) * kv_plane_stride + columns
    target = cache_ptr + block * cache_block_stride
    target += (planes * block_size + offset) * dim + columns
    tl.store(target, tl.load(source, mask=inside), mask=inside)


def store_kv(
    kv: torch.Tensor, kv_cache: torch.Tensor, block_ids: torch.Tensor, offsets: torch.Tensor
) -> None:
    """Store `kv` [T, H, 2, D] at slots `offsets` of `block_ids` [T] of one layer's cache."""
    num_tokens, num_heads, _, dim = kv.shape
    if num_tokens == 0:
        return
    _store_kv_kernel[(num_tokens,)](
        kv,
        kv_cache,
        block_ids,
        offsets,
        kv.stride(0),
        kv.stride(1),
        kv.stride(2),
        kv_cache.stride(0),
        kv_cache.shape[3],
        2 * num_heads,
        dim,
        BLOCK_P=triton.next_power_of_2(2 * num_heads),
        BLOCK_D=triton.next_power_of_2(dim),
    )


@triton.jit
def _copy_rows_kernel(
    source_ptr,  # [*, width] contiguous
    target_ptr,  # [*, width] contiguous
    rows_ptr,  # [N]
    width,
    GATHER: tl.constexpr,  # row i of the target from rows[i] of the source, or the other way round
    BLOCK: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + index)
    source_row = row if GATHER else index
    target_row = index if GATHER else row
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(source_ptr + source_row * width + columns, mask=inside)
    tl.store(target_ptr + target_row * width + columns, values, mask=inside)


def copy_blocks(arena: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor) -> None:
    """`arena[targets[i]] = arena[sources[i]]` for `arena` [num_blocks, block_bytes] uint8."""
    if len(sources) == 0:
        return
    words = arena.view(torch.int32) if arena.shape[1] % 4 == 0 else arena
    width = words.shape[1]
    staged = torch.empty((len(sources), width), dtype=words.dtype, device=words.device)
    grid = (len(sources), triton.cdiv(width, BLOCK))
    _copy_rows_kernel[grid](words, staged, sources, width, GATHER=True, BLOCK=BLOCK)
    _copy_rows_kernel[grid](staged, words, targets, width, GATHER=False, BLOCK=BLOCK)
