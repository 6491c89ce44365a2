"""Which blocks of one group hold KV that others may reuse, by block hash, oldest use first out."""

from __future__ import annotations

from collections import OrderedDict


class PrefixCache:
    """Hash -> block of one group. A cached block in use cannot be evicted; an idle one can.

    The cache knows nothing of reference counts: the block pool tells it when a block falls idle
    and when it is used again. Changes since the last `take_changes` are kept as their net effect.
    """

    def __init__(self) -> None:
        self._block_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}
        # Idle blocks, least recently used first.
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._stored: dict[bytes, None] = {}
        self._removed: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._block_of)

    @property
    def num_idle(self) -> int:
        return len(self._idle)

    @property
    def changed(self) -> bool:
        return bool(self._stored or self._removed)

    def get(self, block_hash: bytes) -> int | None:
        """The block that holds this KV, or None."""
        return self._block_of.get(block_hash)

    def holds(self, block: int) -> bool:
        return block in self._hash_of

    def hash_of(self, block: int) -> bytes:
        """Under which hash a block is cached. KeyError when it is not."""
        return self._hash_of[block]

    def add(self, block_hash: bytes, block: int) -> None:
        """Enter a full, computed block in use. The first block of a hash stays; others are left."""
        if block_hash in self._block_of:
            return
        assert block not in self._hash_of, f"block {block} is cached under another hash"
        self._block_of[block_hash] = block
        self._hash_of[block] = block_hash
        if block_hash in self._removed:
            del self._removed[block_hash]
        else:
            self._stored[block_hash] = None

    def fall_idle(self, block: int) -> bool:
        """Nobody uses the block any more. False when it is not cached, so simply free."""
        if block not in self._hash_of:
            return False
        self._idle[block] = None
        return True

    def use(self, block: int) -> None:
        """An idle block is used again."""
        del self._idle[block]

    def evict(self) -> int:
        """Forget the idle block used least recently and return it. KeyError when none is idle."""
        block, _ = self._idle.popitem(last=False)
        block_hash = self._hash_of.pop(block)
        del self._block_of[block_hash]
        if block_hash in self._stored:
            del self._stored[block_hash]
        else:
            self._removed[block_hash] = None
        return block

    def hashes(self) -> list[bytes]:
        return list(self._block_of)

    def blocks(self) -> dict[int, bytes]:
        """Block -> hash, for integrity checks."""
        return dict(self._hash_of)

    def idle_blocks(self) -> list[int]:
        return list(self._idle)

    def take_changes(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """(stored, removed) since the last call. No hash is in both."""
        stored, removed = tuple(self._stored), tuple(self._removed)
        self._stored.clear()
        self._removed.clear()
        return stored, removed
