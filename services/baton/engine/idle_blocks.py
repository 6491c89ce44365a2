"""Blocks that nobody uses and whose KV can still be found, in the order in which they are to go."""

from __future__ import annotations

from collections import OrderedDict


class IdleBlocks:
    """Least recently used first; those that tiers below have seen go before the rest."""

    def __init__(self) -> None:
        self._demoted: OrderedDict[int, None] = OrderedDict()
        self._fresh: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._demoted) + len(self._fresh)

    def __contains__(self, block: int) -> bool:
        return block in self._demoted or block in self._fresh

    @property
    def num_demoted(self) -> int:
        return len(self._demoted)

    def add(self, block: int, *, demoted: bool) -> None:
        """The block was used last of all."""
        (self._demoted if demoted else self._fresh)[block] = None

    def remove(self, block: int) -> bool:
        """Take a block out; whether tiers below have seen it."""
        if block in self._fresh:
            del self._fresh[block]
            return False
        del self._demoted[block]
        return True

    def oldest_fresh(self) -> int | None:
        """The block that tiers below are to see next."""
        return next(iter(self._fresh), None)

    def demote(self, block: int) -> None:
        """Tiers below need no copy of this block, or cannot have one."""
        del self._fresh[block]
        self._demoted[block] = None

    def pop(self) -> tuple[int, bool]:
        """Take out the block that goes first, and whether tiers below have seen it."""
        demoted = bool(self._demoted)
        block, _ = (self._demoted if demoted else self._fresh).popitem(last=False)
        return block, demoted

    def blocks(self) -> list[int]:
        return [*self._demoted, *self._fresh]
