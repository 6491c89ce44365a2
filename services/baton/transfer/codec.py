"""How the copy of a full block is encoded: exactly, or as int8 with a scale per token and head.

int8: of each vector x of `dim` elements (one token, one head, K or V) the record has
q = round(x * 127 / max|x|) and the scale max|x| / 127 as float32. The error of an element is at
most half a scale, so 1 / 254 of the largest element of its vector. Zeros stay zeros, and what was
decoded encodes to the same numbers again. docs/tiers.md has measured errors. Lower tiers and the
wire of handoffs (`wire_codec`) use it.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from baton.core.errors import ConfigError
from baton.core.kv import GroupSpec

Bytes = npt.NDArray[np.uint8]
CodecName = Literal["none", "int8"]
INT8_DTYPES = ("bfloat16", "float16", "float32", "float64")
# Vectors without a larger element than this count as zeros.
SMALLEST = 1e-30


class Codec(Protocol):
    """Encodes blocks of one group. From any thread."""

    name: CodecName
    record_bytes: int

    def encode(self, block: Bytes, record: Bytes) -> None:
        """Fill `record` [record_bytes] from `block` [block_bytes].

        Raises ValueError for what cannot be encoded.
        """

    def decode(self, record: Bytes, block: Bytes) -> None:
        """Fill `block` from `record`."""


def make_codec(name: CodecName, spec: GroupSpec) -> Codec:
    """The codec for a group's blocks. Raises ConfigError when it has none for their elements."""
    return Exact(spec) if name == "none" else Int8(spec)


class Exact:
    """The block's own bytes."""

    name: CodecName = "none"

    def __init__(self, spec: GroupSpec) -> None:
        self.record_bytes = spec.block_bytes

    def encode(self, block: Bytes, record: Bytes) -> None:
        record[:] = block

    def decode(self, record: Bytes, block: Bytes) -> None:
        block[:] = record


class Int8:
    """A record is, for K and then for V: int8 [heads, slots, dim], then float32 [heads, slots].

    `heads` counts those of all layers, in the order of the block.
    """

    name: CodecName = "int8"

    def __init__(self, spec: GroupSpec) -> None:
        if spec.dtype not in INT8_DTYPES:
            raise ConfigError(f"codec int8 is not for KV of {spec.dtype}; use none")
        self._spec = spec
        self._num_heads = spec.num_layers * spec.num_kv_heads
        num_vectors = self._num_heads * spec.block_size
        self.record_bytes = num_vectors * (spec.k_dim + spec.v_dim + 2 * 4)

    def encode(self, block: Bytes, record: Bytes) -> None:
        for values, quantised, scales in self._parts(block, record):
            floats = _to_floats(values, self._spec.dtype)
            largest = np.abs(floats).max(axis=-1)
            # NaN is not smaller either.
            if not (largest <= np.finfo(np.float32).max).all():
                raise ValueError("the block has elements that are not finite, or too large")
            scales[:] = largest / 127
            # The inverse of what is smaller would be infinite.
            counts = largest > SMALLEST
            ratio = np.where(counts, 127 / np.where(counts, largest, 1), 0).astype(floats.dtype)
            quantised[:] = np.rint(floats * ratio[..., None]).clip(-127, 127)

    def decode(self, record: Bytes, block: Bytes) -> None:
        for values, quantised, scales in self._parts(block, record):
            floats = quantised.astype(np.float32) * scales[..., None]
            values[:] = _from_floats(floats, self._spec.dtype)

    def _parts(
        self, block: Bytes, record: Bytes
    ) -> list[tuple[np.ndarray, npt.NDArray[np.int8], npt.NDArray[np.float32]]]:
        """(elements in the block, int8 and scales in the record) of K and of V: views."""
        spec, heads, slots = self._spec, self._num_heads, self._spec.block_size
        elements = block.view(_STORED[spec.dtype]).reshape(heads, -1)
        parts, first, offset = [], 0, 0
        for dim in (spec.k_dim, spec.v_dim):
            values = elements[:, first : first + slots * dim].reshape(heads, slots, dim)
            first += slots * dim
            size = heads * slots * dim
            quantised = record[offset : offset + size].view(np.int8).reshape(heads, slots, dim)
            offset += size
            size = heads * slots * 4
            scales = record[offset : offset + size].view(np.float32).reshape(heads, slots)
            offset += size
            parts.append((values, quantised, scales))
        return parts


# numpy has no bfloat16: the upper half of a float32.
_STORED = {
    "bfloat16": np.uint16,
    "float16": np.float16,
    "float32": np.float32,
    "float64": np.float64,
}


def _to_floats(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64 if dtype == "float64" else np.float32)


def _from_floats(values: npt.NDArray[np.float32], dtype: str) -> np.ndarray:
    if dtype != "bfloat16":
        return values.astype(_STORED[dtype])
    bits = values.view(np.uint32)
    # To the nearest, ties to even.
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype(np.uint16)
