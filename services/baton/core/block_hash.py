"""The hash chain that names KV blocks, for the engine's prefix cache, handoffs and the router.

A block's hash covers everything that its KV depends on: the hash of the block before it (in the end
the root: hash version, digest, tenant salt, LoRA) and its own tokens. Only full blocks have one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

HASH_BYTES = 16
HASH_VERSION = 1


def root_hash(
    digest: str, tenant_salt: str = "", lora_id: str = "", lora_revision: str = ""
) -> bytes:
    """Parent of a prompt's first block. Fields are length-prefixed, so none can pose as another."""
    h = hashlib.blake2b(HASH_VERSION.to_bytes(4, "little"), digest_size=HASH_BYTES)
    for part in (digest, tenant_salt, lora_id, lora_revision):
        raw = part.encode()
        h.update(len(raw).to_bytes(4, "little") + raw)
    return h.digest()


def extend_hashes(
    parent: bytes, token_ids: Sequence[int] | np.ndarray, block_size: int
) -> list[bytes]:
    """Hashes of the full blocks of `token_ids` (uint32, little-endian), which follow `parent`.

    A partial block at the end has no hash. Linear: 100,000 tokens take a few milliseconds.
    """
    num_full = len(token_ids) // block_size
    raw = np.asarray(token_ids[: num_full * block_size], dtype="<u4").tobytes()
    hashes: list[bytes] = []
    step = 4 * block_size
    for start, end in pairwise(range(0, len(raw) + 1, step)):
        h = hashlib.blake2b(parent, digest_size=HASH_BYTES)
        h.update(raw[start:end])
        parent = h.digest()
        hashes.append(parent)
    return hashes
