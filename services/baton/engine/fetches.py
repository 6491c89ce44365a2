"""Blocks that come from other workers' caches without a request of their own, and those lent.

Both sides. Fetched blocks are reserved as a handoff's are, and become plain prefix cache; lent ones
are held until the peer has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from baton.core.errors import HandoffError, InvalidRequestError
from baton.core.handoff import Key, ReservedGroup
from baton.engine.block_manager import BlockManager
from baton.engine.promotions import Promotions
from baton.engine.reservations import Reservations
from baton.engine.scheduler import Scheduler
from baton.engine.sequence import Sequence as Seq

# At most this share of a pool is lent at once.
MAX_LENT_SHARE = 0.25


class Fetches:
    """A fetch has a key of its own, and is of one group. Everything on the engine's thread."""

    def __init__(
        self,
        blocks: BlockManager,
        scheduler: Scheduler,
        reservations: Reservations,
        wake: Callable[[], None],
    ) -> None:
        """`wake()` is called when blocks have come free."""
        self._blocks = blocks
        self._scheduler = scheduler
        self._reservations = reservations
        self._wake = wake
        self._lent: dict[Key, tuple[int, tuple[int, ...]]] = {}
        self.num_fetched = 0

    # --- the side that asks ---

    def missing(self, seq: Seq, promotions: Promotions | None) -> list[list[bytes]]:
        """Per group, hashes of a prompt's full blocks behind the prefix that is here already.

        One token is left to compute, so a block that only it would fill up is not worth asking for.
        """
        missing = []
        for group, (pool, hashes) in enumerate(zip(self._blocks.pools, seq.hashes, strict=True)):
            limit = (seq.num_tokens - 1) // pool.spec.block_size
            if promotions is None:
                held = len(pool.cached(hashes))
            else:
                held = promotions.num_held(group, hashes)
            missing.append(hashes[held:limit])
        return missing

    def reserve(
        self,
        key: Key,
        group: int,
        asked: Sequence[bytes],
        hashes: Sequence[Sequence[bytes]],
        num_blocks: Sequence[int],
    ) -> tuple[ReservedGroup, ...] | None:
        """Room for offered blocks, which must be the first of those that were asked for.

        None when there is none to spare. Raises InvalidRequestError for any other offer.
        """
        expected = [() if g != group else tuple(asked) for g in range(len(self._blocks.pools))]
        if tuple(num_blocks) != tuple(map(len, hashes)) or any(
            tuple(offered) != wanted[: len(offered)]
            for offered, wanted in zip(hashes, expected, strict=True)
        ):
            raise InvalidRequestError("the offer is not of what was asked for")
        if self._scheduler.short_of_blocks:
            return None
        offered = tuple([tuple(h) for h in hashes])
        return self._reservations.reserve(key, None, 0, offered, self._scheduler.headroom)

    def check_commit(
        self, key: Key, hashes: Sequence[Sequence[bytes]], num_blocks: Sequence[int]
    ) -> None:
        """Whether what came is what was offered. Raises HandoffError."""
        reserved = self._reservations.open[key].hashes
        if tuple([tuple(h) for h in hashes]) != reserved:
            raise HandoffError("the committed hashes are not those offered")
        if tuple(num_blocks) != tuple(map(len, reserved)):
            raise HandoffError("more blocks were committed than offered")

    def adopt(self, key: Key) -> None:
        """The blocks hold verified KV: from now on they are prefix cache."""
        reservation = self._reservations.open.pop(key)
        self.num_fetched += reservation.num_new
        self._reservations.register(reservation, reservation.hashes)
        self._reservations.close(reservation)
        self._wake()

    # --- the side that is asked ---

    def lend(self, key: Key, group: int, hashes: Sequence[bytes]) -> tuple[int, ...]:
        """Blocks of the longest prefix of `hashes` that is here, to be held until `release`.

        Fewer, or none, when they would be missed here.
        """
        if not 0 <= group < len(self._blocks.pools) or key in self._lent:
            return ()
        pool = self._blocks.pools[group]
        room = int(pool.size * MAX_LENT_SHARE) - sum(1 for _ in self.lent(group))
        blocks = tuple(pool.cached(hashes)[: max(0, room)])
        if not blocks or pool.num_free - pool.num_idle(blocks) < self._scheduler.headroom:
            return ()
        for block in blocks:
            pool.share(block)
        self._lent[key] = group, blocks
        return blocks

    def release(self, key: Key) -> None:
        """The peer reads them no more. Unknown keys are ignored."""
        lent = self._lent.pop(key, None)
        if lent is not None:
            group, blocks = lent
            self._blocks.pools[group].free_all(blocks)
            self._wake()

    def lent(self, group: int) -> Iterable[int]:
        """Block ids, one for each time that one is lent."""
        return (block for g, blocks in self._lent.values() if g == group for block in blocks)
