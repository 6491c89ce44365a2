"""The hash chain that names KV blocks, for the engine's prefix cache, handoffs and the router.

A block's hash covers everything that its KV depends on: the hash of the block before it (in the end
the root: hash version, digest, tenant salt, LoRA) and its own tokens. Only full blocks have one.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

HASH_BYTES = 16
HASH_VERSION = 1
TOKEN_BYTES = 4

# First 8 bytes of each block hash, little-endian: [num_blocks] uint64, none of them 0.
IndexKeys = npt.NDArray[np.uint64]


@lru_cache(maxsize=1024)
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

    A partial block at the end has no hash. Linear: 100,000 tokens take about 3 ms.
    """
    return _chain(parent, token_bytes(token_ids), TOKEN_BYTES * block_size)


def token_bytes(token_ids: Sequence[int] | np.ndarray) -> bytes:
    """Token ids as they are hashed: uint32, little-endian.

    Raises OverflowError for a Python int that is none.
    """
    if isinstance(token_ids, np.ndarray):
        return np.asarray(token_ids, dtype="<u4").tobytes()
    # Half the time that numpy needs for a tuple.
    ids = array("I", token_ids)
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tobytes()


def index_keys(hashes: Sequence[bytes] | bytes) -> IndexKeys:
    """Keys of block hashes (also concatenated ones) in an index that can do with 64 bits."""
    raw = hashes if isinstance(hashes, bytes) else b"".join(hashes)
    keys = np.frombuffer(raw, dtype="<u8")[::2].astype(np.uint64)
    # 0 marks free slots.
    return np.maximum(keys, np.uint64(1), out=keys)


_NO_KEYS = index_keys(b"")


class KeyChain:
    """Index keys of a sequence that grows; each token is hashed once."""

    __slots__ = ("_block_bytes", "_keys", "_new", "_parent", "_tail", "block_size", "num_tokens")

    def __init__(self, root: bytes, block_size: int) -> None:
        self.block_size = block_size
        self.num_tokens = 0
        self._block_bytes = TOKEN_BYTES * block_size
        self._parent = root
        # Tokens of the block that is not full.
        self._tail = b""
        self._keys = _NO_KEYS
        # Hashes not among the keys yet.
        self._new: list[bytes] = []

    def extend(self, token_ids: Sequence[int] | np.ndarray) -> None:
        """Append tokens."""
        raw = self._tail + token_bytes(token_ids)
        self.num_tokens += len(token_ids)
        hashes = _chain(self._parent, raw, self._block_bytes)
        self._tail = raw[len(hashes) * self._block_bytes :]
        if hashes:
            self._parent = hashes[-1]
            self._new += hashes

    @property
    def keys(self) -> IndexKeys:
        """Of all full blocks: [num_tokens // block_size]."""
        if self._new:
            new = index_keys(self._new)
            self._keys = np.concatenate((self._keys, new)) if len(self._keys) else new
            self._new = []
        return self._keys


def _chain(parent: bytes, raw: bytes, block_bytes: int) -> list[bytes]:
    # A copy of an empty state costs half of what a new one does, whose arguments are parsed.
    fresh = hashlib.blake2b(digest_size=HASH_BYTES).copy
    hashes: list[bytes] = []
    append = hashes.append
    for start in range(0, len(raw) - block_bytes + 1, block_bytes):
        h = fresh()
        h.update(parent)
        h.update(raw[start : start + block_bytes])
        parent = h.digest()
        append(parent)
    return hashes
