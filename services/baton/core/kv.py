"""KV memory: attention groups, the bytes of a block, and where the blocks lie.

One byte arena per group, `[num_blocks, block_bytes]`; all layers of the group lie in one block, so
that a block is one descriptor for a transfer. Inside a block the order is
`[layer, kv_head, K then V, slot, dim]`: heads are outermost within a layer, so a range of heads is
contiguous and a re-layout between differently sharded workers is a list of descriptors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8, "uint8": 1}


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """Layers that share an arena and a block table. Dims are elements, block_size is tokens."""

    kind: str  # full, window, mla
    num_layers: int
    num_kv_heads: int
    k_dim: int
    v_dim: int
    block_size: int
    dtype: str
    window: int = 0

    @property
    def head_bytes(self) -> int:
        """Bytes of one KV head of one layer in one block, K and V together."""
        return self.block_size * (self.k_dim + self.v_dim) * DTYPE_BYTES[self.dtype]

    @property
    def layer_bytes(self) -> int:
        return self.num_kv_heads * self.head_bytes

    @property
    def block_bytes(self) -> int:
        return self.num_layers * self.layer_bytes

    def num_blocks(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)


@dataclass(frozen=True, slots=True)
class ShardSlice:
    """Which layers and KV heads of a group a rank holds: half-open ranges.

    The default is one layer of one head, whatever its bytes: a block that is never divided.
    """

    layers: tuple[int, int] = (0, 1)
    heads: tuple[int, int] = (0, 1)

    @property
    def num_layers(self) -> int:
        return self.layers[1] - self.layers[0]

    @property
    def num_heads(self) -> int:
        return self.heads[1] - self.heads[0]


def whole_slice(group: GroupSpec) -> ShardSlice:
    """What the only rank of a worker holds."""
    return ShardSlice((0, group.num_layers), (0, group.num_kv_heads))


@dataclass(frozen=True, slots=True)
class Arena:
    """One group's memory: `[num_blocks, block_bytes]` from `address` on.

    `view` is a writable uint8 numpy array of that shape for host memory, else None. A block is
    `[layer, head, bytes of one head]` of the layers and heads in `held`.
    """

    group: int
    address: int
    num_blocks: int
    block_bytes: int
    memory: str  # DRAM or VRAM
    device_id: int
    view: Any
    held: ShardSlice = ShardSlice()

    @property
    def head_bytes(self) -> int:
        """One head of one layer, K and V."""
        return self.block_bytes // max(1, self.held.num_layers * self.held.num_heads)


def kv_digest(model_identity: str, groups: Sequence[GroupSpec], rope: str) -> str:
    """What two workers must share before KV moves between them (32 hex digits)."""
    document = json.dumps([model_identity, [asdict(g) for g in groups], rope], sort_keys=True)
    return hashlib.blake2b(document.encode(), digest_size=16).hexdigest()
