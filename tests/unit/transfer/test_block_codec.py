"""Copies of blocks: exact ones are exact, int8 ones within half a scale of each vector."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.core.errors import ConfigError
from baton.core.kv import GroupSpec
from baton.transfer.codec import make_codec

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def spec_of(dtype: str, k_dim: int = 8, v_dim: int = 8) -> GroupSpec:
    return GroupSpec("full", 2, 3, k_dim, v_dim, 4, dtype)


def block_of(values: torch.Tensor) -> np.ndarray:
    found: np.ndarray = values.contiguous().view(torch.uint8).reshape(-1).numpy().copy()
    return found


def through(spec: GroupSpec, name: str, block: np.ndarray) -> np.ndarray:
    codec = make_codec(name, spec)  # type: ignore[arg-type]
    record = np.full(codec.record_bytes, 0xEE, dtype=np.uint8)
    codec.encode(block, record)
    found = np.full_like(block, 0xEE)
    codec.decode(record, found)
    return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_a_codec_the_bytes_are_the_same(dtype: str) -> None:
    spec = spec_of(dtype)
    block = np.random.default_rng(1).integers(0, 256, spec.block_bytes, dtype=np.uint8)
    assert (through(spec, "none", block) == block).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spread", [1e-3, 1.0, 300.0])
def test_int8_errs_by_half_a_scale_at_most(dtype: str, spread: float) -> None:
    spec = spec_of(dtype)
    generator = torch.Generator().manual_seed(3)
    shape = (2 * 3, 2, 4, 8)
    values = (spread * torch.randn(shape, generator=generator)).to(DTYPES[dtype])
    found = torch.from_numpy(through(spec, "int8", block_of(values)))
    error = (found.view(DTYPES[dtype]).view(shape).double() - values.double()).abs()
    largest = values.double().abs().amax(-1, keepdim=True)
    # Half a step of 1/127, and the rounding of the element type itself.
    rounding = float(torch.finfo(DTYPES[dtype]).eps) + 1e-6
    assert (error <= largest * (0.5 / 127 + rounding)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_was_decoded_encodes_to_the_same_numbers(dtype: str) -> None:
    spec = spec_of(dtype)
    values = torch.randn(6, 2, 4, 8, generator=torch.Generator().manual_seed(4)).to(DTYPES[dtype])
    once = through(spec, "int8", block_of(values))
    twice = through(spec, "int8", once)
    changed = torch.from_numpy(once).view(DTYPES[dtype]).double()
    again = torch.from_numpy(twice).view(DTYPES[dtype]).double()
    assert torch.allclose(changed, again, rtol=2 * float(torch.finfo(DTYPES[dtype]).eps), atol=0)


def test_k_and_v_may_have_different_sizes() -> None:
    spec = spec_of("float32", k_dim=12, v_dim=5)
    values = torch.randn(spec.block_bytes // 4, generator=torch.Generator().manual_seed(5))
    found = torch.from_numpy(through(spec, "int8", block_of(values))).view(torch.float32)
    heads, size = values.view(6, -1), 4 * 12
    for part, dim in ((slice(None, size), 12), (slice(size, None), 5)):
        wanted = heads[:, part].reshape(-1, dim)
        error = (found.view(6, -1)[:, part].reshape(-1, dim) - wanted).abs()
        assert (error <= wanted.abs().amax(-1, keepdim=True) * (0.5001 / 127)).all()


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.floats(allow_nan=True, allow_infinity=True, width=64), min_size=1, max_size=40),
)
def test_any_elements_are_encoded_or_refused(dtype: str, given_values: list[float]) -> None:
    spec = spec_of(dtype)
    values = torch.zeros(6 * 2 * 4 * 8, dtype=torch.float64)
    values[: len(given_values)] = torch.tensor(given_values, dtype=torch.float64)
    values = values.to(DTYPES[dtype])
    try:
        found = torch.from_numpy(through(spec, "int8", block_of(values))).view(DTYPES[dtype])
    except ValueError:
        largest = values.double().abs()
        # Beyond float32 there is no scale.
        assert not torch.isfinite(largest).all() or largest.max() > torch.finfo(torch.float32).max
        return
    error = (found.double() - values.double()).abs().view(-1, 8)
    largest = values.double().abs().view(-1, 8).amax(-1, keepdim=True)
    tiny = 1e-30
    eps = float(torch.finfo(DTYPES[dtype]).eps)
    smallest = float(torch.finfo(DTYPES[dtype]).tiny)
    assert (error <= largest * (0.51 / 127 + eps) + tiny + smallest).all()


def test_int8_is_half_of_16_bit_elements_and_their_scales() -> None:
    spec = GroupSpec("full", 32, 8, 128, 128, 16, "bfloat16")
    record = make_codec("int8", spec).record_bytes
    assert record / spec.block_bytes == (128 + 4) / 256


def test_int8_is_refused_for_bytes() -> None:
    with pytest.raises(ConfigError, match="uint8"):
        make_codec("int8", spec_of("uint8"))
