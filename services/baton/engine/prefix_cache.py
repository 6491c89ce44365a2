"""Which blocks of one group hold KV that others may reuse, by block hash, oldest use first out.

Blocks of pinned hashes go last of all.
"""

from __future__ import annotations

from collections.abc import Callable

from baton.engine.idle_blocks import IdleBlocks
from baton.engine.net_changes import NetChanges


class PrefixCache:
    """Hash -> block of one group. A cached block in use cannot be evicted; an idle one can.

    The cache knows nothing of reference counts: the block pool tells it when a block falls idle
    and when it is used again.
    """

    def __init__(self) -> None:
        self._block_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}
        self._idle = IdleBlocks()
        # Idle too, and to go only when nothing else is left: those with pinned hashes.
        self._kept = IdleBlocks()
        # Whether a block has them is another matter.
        self._pinned: set[bytes] = set()
        self._changes = NetChanges()
        # A block fell idle since this was last set back.
        self.fell_idle = False
        # Evicted without having been demoted.
        self.num_dropped = 0

    def __len__(self) -> int:
        return len(self._block_of)

    @property
    def num_idle(self) -> int:
        return len(self._idle) + len(self._kept)

    @property
    def num_demoted(self) -> int:
        return self._idle.num_demoted + self._kept.num_demoted

    @property
    def changed(self) -> bool:
        return bool(self._changes)

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
        self._changes.store(block_hash)

    def fall_idle(self, block: int, *, demoted: bool = False) -> bool:
        """Nobody uses the block any more. False when it is not cached, so simply free."""
        if block not in self._hash_of:
            return False
        self._home(block).add(block, demoted=demoted)
        self.fell_idle = True
        return True

    def use(self, block: int) -> None:
        """An idle block is used again."""
        self._home(block).remove(block)

    def pin(self, block_hash: bytes) -> None:
        """Evict this KV, here now or later, only when there is nothing else to evict."""
        self._repin(block_hash, self._pinned.add)

    def unpin(self, block_hash: bytes) -> None:
        """Its block, if idle, counts as just used."""
        self._repin(block_hash, self._pinned.remove)

    def oldest_undemoted(self) -> int | None:
        """The idle block that is to be demoted next."""
        block = self._idle.oldest_fresh()
        return self._kept.oldest_fresh() if block is None else block

    def demote(self, block: int) -> None:
        """Tiers below need no copy of this idle block, or cannot have one: it may go."""
        self._home(block).demote(block)

    def evict(self) -> int:
        """Forget the idle block used least recently and return it. KeyError when none is idle."""
        block, demoted = (self._idle or self._kept).pop()
        self.num_dropped += not demoted
        block_hash = self._hash_of.pop(block)
        del self._block_of[block_hash]
        self._changes.remove(block_hash)
        return block

    def hashes(self) -> list[bytes]:
        return list(self._block_of)

    def blocks(self) -> dict[int, bytes]:
        """Block -> hash, for integrity checks."""
        return dict(self._hash_of)

    def idle_blocks(self) -> list[int]:
        return [*self._idle.blocks(), *self._kept.blocks()]

    def check_pins(self, pinned: set[bytes]) -> None:
        """Assert that just these hashes are pinned, and that idle blocks are where they belong."""
        assert self._pinned == pinned, "the cache keeps what nobody pins, or the other way round"
        for home in (self._idle, self._kept):
            for block in home.blocks():
                assert self._home(block) is home, f"block {block} goes in the wrong order"

    def take_changes(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """(stored, removed) since the last call. No hash is in both."""
        return self._changes.take()

    def _home(self, block: int) -> IdleBlocks:
        """Where a cached block is while idle."""
        return self._kept if self._hash_of[block] in self._pinned else self._idle

    def _repin(self, block_hash: bytes, change: Callable[[bytes], None]) -> None:
        block = self._block_of.get(block_hash)
        home = None if block is None else self._home(block)
        if block is None or home is None or block not in home:
            change(block_hash)
            return
        demoted = home.remove(block)
        change(block_hash)
        self._home(block).add(block, demoted=demoted)
