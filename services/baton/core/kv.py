"""The shape of KV memory: attention groups and the bytes of a block.

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


def kv_digest(model_identity: str, groups: Sequence[GroupSpec], rope: str) -> str:
    """What two workers must share before KV moves between them (32 hex digits)."""
    document = json.dumps([model_identity, [asdict(g) for g in groups], rope], sort_keys=True)
    return hashlib.blake2b(document.encode(), digest_size=16).hexdigest()
