"""Each Triton op against its reference, at odd shapes.

`test_ops.py` runs this file in a process of its own: on CPU under Triton's interpreter, and on CUDA
where there is a device (BATON_TEST_KERNEL_DEVICE).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from baton_kernels import dispatch
from baton_kernels.ops import kv_copy, paged_attention, rms_norm, rope, silu_mul
from baton_kernels.reference import kv_copy as kv_copy_reference
from baton_kernels.reference import paged_attention as paged_attention_reference
from baton_kernels.reference import rms_norm as rms_norm_reference
from baton_kernels.reference import rope as rope_reference
from baton_kernels.reference import silu_mul as silu_mul_reference
from fakes.tiny_models import (
    WITH_LOGPROBS,
    Feed,
    make_runner,
    random_prompt,
    run_for_logprobs,
    save_model,
)

DEVICE = os.environ.get("BATON_TEST_KERNEL_DEVICE", "cpu")
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.float64: 1e-12}
DTYPES = [torch.float32, torch.float16, torch.float64]
if DEVICE == "cuda":  # the interpreter computes in numpy, which has no bfloat16
    TOLERANCE[torch.bfloat16] = 2e-2
    DTYPES.append(torch.bfloat16)

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def rand(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)


def assert_close(found: torch.Tensor, want: torch.Tensor) -> None:
    tolerance = TOLERANCE[found.dtype]
    assert found.dtype == want.dtype
    torch.testing.assert_close(found.cpu(), want.cpu(), atol=tolerance, rtol=tolerance)


@dtypes
@pytest.mark.parametrize("shape", [(1, 1), (5, 123), (3, 1823)])
def test_rms_norm(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x, residual = rand(*shape, dtype=dtype), rand(*shape, dtype=dtype, seed=1)
    weight = rand(shape[1], dtype=dtype, seed=2)
    assert_close(rms_norm.rms_norm(x, weight, 1e-5), rms_norm_reference.rms_norm(x, weight, 1e-5))
    for found, want in zip(
        rms_norm.add_rms_norm(x, residual, weight, 1e-5),
        rms_norm_reference.add_rms_norm(x, residual, weight, 1e-5),
        strict=True,
    ):
        assert_close(found, want)


@dtypes
def test_rms_norm_of_heads_in_a_wider_tensor(dtype: torch.dtype) -> None:
    x, weight = rand(5, 7, 24, dtype=dtype)[:, 2:5], rand(24, dtype=dtype)
    found = rms_norm.rms_norm(x, weight, 1e-6)
    assert found.is_contiguous()
    assert_close(found, rms_norm_reference.rms_norm(x, weight, 1e-6))


@dtypes
@pytest.mark.parametrize("shape", [(1, 2), (5, 246), (3, 2100)])
def test_silu_mul(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = rand(*shape, dtype=dtype) * 4
    assert_close(silu_mul.silu_mul(x), silu_mul_reference.silu_mul(x))


@dtypes
@pytest.mark.parametrize(("heads", "dim"), [(1, 2), (3, 6), (5, 64)])
def test_rope_rotates_in_place_and_leaves_the_rest(
    heads: int, dim: int, dtype: torch.dtype
) -> None:
    whole = rand(4, heads + 2, dim, dtype=dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    angles = rand(4, dim // 2, dtype=wide, seed=1)
    want = whole.clone()
    rope_reference.rope(want[:, 1:-1], angles.cos(), angles.sin())
    rope.rope(whole[:, 1:-1], angles.cos(), angles.sin())
    assert_close(whole, want)


def make_cache(
    num_blocks: int, heads: int, block_size: int, dim: int, dtype: torch.dtype
) -> torch.Tensor:
    """One layer of three, as it lies in an arena."""
    return rand(num_blocks, 3, heads, 2, block_size, dim, dtype=dtype)[:, 1]


@dtypes
@pytest.mark.parametrize(("heads", "block_size", "dim"), [(1, 1, 2), (3, 5, 12), (2, 16, 64)])
def test_store_kv(heads: int, block_size: int, dim: int, dtype: torch.dtype) -> None:
    found, want = (make_cache(9, heads, block_size, dim, dtype) for _ in range(2))
    num = min(7, 9 * block_size)
    slots = torch.from_numpy(np.random.default_rng(0).permutation(9 * block_size)[:num])
    blocks, offsets = (slots // block_size).to(DEVICE), (slots % block_size).to(DEVICE)
    qkv = rand(num, 2 + 2 * heads, dim, dtype=dtype, seed=3)
    kv = qkv[:, 2:].view(num, 2, heads, dim).transpose(1, 2)
    kv_copy.store_kv(kv, found, blocks, offsets)
    kv_copy_reference.store_kv(kv, want, blocks, offsets)
    assert torch.equal(found, want)


@pytest.mark.parametrize("block_bytes", [1, 13, 4096, 5000])
def test_copy_blocks_reads_sources_first(block_bytes: int) -> None:
    found = torch.randint(0, 256, (8, block_bytes), dtype=torch.uint8).to(DEVICE)
    want = found.clone()
    sources, targets = torch.tensor([[1, 2, 1], [2, 5, 7]]).to(DEVICE)
    kv_copy.copy_blocks(found, sources, targets)
    kv_copy_reference.copy_blocks(want, sources, targets)
    assert torch.equal(found, want)


@dtypes
@pytest.mark.parametrize(
    ("query_lens", "contexts"),
    [
        ([1], [0]),
        ([1, 1, 1], [0, 9, 70]),
        ([7], [0]),
        ([40, 1, 3, 1], [25, 64, 0, 3]),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "block_size"), [(3, 1, 12, 5), (4, 4, 16, 16), (10, 2, 33, 8)]
)
def test_paged_attention(
    query_lens: list[int],
    contexts: list[int],
    heads: int,
    kv_heads: int,
    dim: int,
    block_size: int,
    dtype: torch.dtype,
) -> None:
    seq_lens = [q + c for q, c in zip(query_lens, contexts, strict=True)]
    num_blocks = [-(-n // block_size) for n in seq_lens]
    order = np.random.default_rng(0).permutation(sum(num_blocks)).astype(np.int32)
    tables = np.split(order, np.cumsum(num_blocks)[:-1])
    cache = make_cache(sum(num_blocks), kv_heads, block_size, dim, dtype)
    q = rand(sum(query_lens), heads + 2, dim, dtype=dtype, seed=1)[:, 1:-1]
    shape = heads, query_lens, seq_lens, tables
    plan = paged_attention.plan_attention(cache, *shape)
    found = paged_attention.paged_attention(q, cache, plan, dim**-0.5)
    cache = cache.cpu()
    plan = paged_attention_reference.plan_attention(cache, *shape)
    want = paged_attention_reference.paged_attention(q.cpu(), cache, plan, dim**-0.5)
    assert found.is_contiguous()
    assert_close(found, want)


def test_a_model_computes_the_same_with_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path, "qwen3")
    results = []
    for ops in ((), (kv_copy, paged_attention, rms_norm, rope, silu_mul)):
        for module in ops:
            for name in vars(dispatch).keys() & vars(module).keys():
                if callable(getattr(module, name)) and name[0].islower():
                    monkeypatch.setattr(dispatch, name, getattr(module, name))
        assert (dispatch.paged_attention is paged_attention.paged_attention) == bool(ops)
        runner = make_runner(tmp_path)
        feeds = [Feed(random_prompt(11, seed=1), [5, 1, 9]), Feed(random_prompt(6), [2, 3])]
        run_for_logprobs(runner, [feeds[0].entry(10, WITH_LOGPROBS)])
        entries = [feeds[0].entry(1, WITH_LOGPROBS), feeds[1].entry(6, WITH_LOGPROBS)]
        results.append(run_for_logprobs(runner, entries))
    np.testing.assert_allclose(results[1], results[0], atol=1e-11, rtol=0)
