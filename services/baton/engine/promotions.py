"""Sequences that wait until blocks of their prefix are back from lower tiers. Pure.

A block on its way up is owned by its `Load`, so nobody else gets it, and is in no prefix cache, so
nobody reads it. When it has arrived, the sequences that wait for it hold it until they start.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from baton.engine.block_manager import BlockManager
from baton.engine.lower_tiers import LowerTiers
from baton.engine.sequence import Sequence
from baton.engine.tier_index import TierIndex

# A prompt that has not come yet may have its blocks brought up for so long.
HINT_WAIT_S = 30.0
# So many of them wait at once; more are not taken.
MAX_HINTS = 64
# (group, block hash)
Place = tuple[int, bytes]


@dataclass(slots=True, eq=False)
class Load:
    """A block on its way up, for those that wait for it. `block` is -1 until one is allocated."""

    group: int
    block_hash: bytes
    waiters: set[Sequence] = field(default_factory=set)
    block: int = -1
    reading: bool = False

    @property
    def place(self) -> Place:
        return self.group, self.block_hash


@dataclass(slots=True)
class Wait:
    """One sequence's: what is still to come, and blocks kept for it until it starts."""

    deadline: float
    pending: set[Place] = field(default_factory=set)
    # Of a prompt that has not come yet: it keeps no blocks from anybody.
    is_hint: bool = False
    held: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Prefix:
    """How long it is, its blocks on the device by group, and those that have to come up."""

    num_tokens: int
    found: list[tuple[int, int]]
    wanted: list[Place]


class Promotions:
    """At most `max_copies` blocks are read, and as many loaded, at once; others queue."""

    def __init__(
        self,
        blocks: BlockManager,
        host: list[TierIndex],
        disk: list[TierIndex],
        tiers: LowerTiers,
        *,
        wait_s: float,
        max_copies: int,
        headroom: Callable[[], int],
        wake: Callable[[], None],
    ) -> None:
        """`wake()` is called when a sequence need not wait any longer."""
        self._blocks = blocks
        self._host = host
        self._disk = disk
        self._tiers = tiers
        self._wait_s = wait_s
        self._max_copies = max_copies
        self._headroom = headroom
        self._wake = wake
        self._waits: dict[Sequence, Wait] = {}
        self._loads: dict[Place, Load] = {}
        self._to_read: deque[Load] = deque()
        self._to_copy: deque[Load] = deque()
        self._num_reading = 0
        self._num_copying = 0
        # Somebody waited in vain while the disk was reading, and nothing has been read since.
        self._disk_late = False
        self.num_promoted = 0
        self.num_timeouts = 0

    def must_wait(self, seq: Sequence, now: float) -> bool:
        """Whether blocks of a waiting sequence's prefix are on their way; asks for them once."""
        wait = self._waits.get(seq)
        if wait is None:
            prefix = self._prefix(seq)
            if prefix is None:
                return False
            wait = Wait(now + self._wait_s)
            for group, block in prefix.found:
                self._blocks.pools[group].share(block)
                wait.held.append((group, block))
            self._begin(seq, prefix, wait)
        return bool(wait.pending) and now < wait.deadline

    def hint(self, seq: Sequence, now: float) -> int | None:
        """Bring up the prefix of a prompt that is about to come; `seq` never runs.

        How many tokens all tiers hold of it, if there is room for them. None when too many hints
        wait already.
        """
        prefix = self._prefix(seq)
        if prefix is None:
            return 0
        if all(place in self._loads for place in prefix.wanted):
            # Others have it brought up.
            return prefix.num_tokens
        if sum(wait.is_hint for wait in self._waits.values()) >= MAX_HINTS:
            return None
        self._begin(seq, prefix, Wait(now + HINT_WAIT_S, is_hint=True))
        return prefix.num_tokens

    def num_held(self, group: int, hashes: list[bytes]) -> int:
        """How many blocks of a prefix all tiers together hold."""
        return sum(1 for _ in self._chain(group, hashes))

    def expire(self, now: float) -> None:
        """Sequences that have waited long enough start with what there is."""
        for seq, wait in list(self._waits.items()):
            if not wait.pending or wait.deadline > now:
                continue
            if wait.is_hint:
                self.release(seq)
                continue
            self.num_timeouts += 1
            self._disk_late = self._num_reading > 0
            self._stop_waiting(seq, wait)

    def release(self, seq: Sequence) -> None:
        """The sequence has started, or is gone."""
        wait = self._waits.pop(seq, None)
        if wait is not None:
            self._stop_waiting(seq, wait)
            self._let_go(wait)

    def give_way(self) -> bool:
        """Somebody finds no room: sequences that wait for that only, keep no blocks meanwhile.

        Whether any were kept. The sequence itself may be one: what it kept beyond a block that did
        not come is in its own way. Those whose blocks are still coming will have them, or reach
        their deadline, so nobody waits for them for ever.
        """
        idle = [wait for wait in self._waits.values() if wait.held and not wait.pending]
        for wait in idle:
            self._let_go(wait)
        return bool(idle)

    def next_deadline(self) -> float | None:
        """When a sequence stops waiting, whatever has come until then."""
        return min((wait.deadline for wait in self._waits.values() if wait.pending), default=None)

    def pump(self) -> None:
        """Start what there is room for."""
        while self._to_copy and self._num_copying < self._max_copies:
            self._copy(self._to_copy.popleft())
        while self._to_read and self._num_reading < self._max_copies:
            if not self._read(self._to_read[0]):
                return
            self._to_read.popleft()

    # --- a sequence's prefix ---

    def _prefix(self, seq: Sequence) -> _Prefix | None:
        """What all tiers hold of a sequence; None unless it is worth waiting for: some of it is in
        lower tiers, and there is room for all of it.
        """
        # At least one token is left to compute.
        limit = seq.num_tokens - 1
        pools = self._blocks.pools
        chains = [list(self._chain(group, hashes)) for group, hashes in enumerate(seq.hashes)]
        length = self._blocks.common_length([len(chain) for chain in chains], limit)
        found: list[list[int]] = []
        wanted: list[Place] = []
        for group, (pool, chain) in enumerate(zip(pools, chains, strict=True)):
            chain = chain[: length // pool.spec.block_size]
            found.append([block for _, block in chain if block is not None])
            wanted += [(group, h) for h, block in chain if block is None]
        if not wanted or not self._blocks.fits(found, seq.num_tokens, self._headroom()):
            return None
        return _Prefix(length, [(g, b) for g, blocks in enumerate(found) for b in blocks], wanted)

    def _begin(self, seq: Sequence, prefix: _Prefix, wait: Wait) -> None:
        """Ask for what lower tiers have of a prefix."""
        self._waits[seq] = wait
        wait.pending = set(prefix.wanted)
        for place in prefix.wanted:
            self._load(place).waiters.add(seq)
        self.pump()

    def _chain(self, group: int, hashes: list[bytes]) -> Iterator[tuple[bytes, int | None]]:
        """The longest prefix that all tiers together hold, with its device blocks."""
        cache, host, disk = self._blocks.pools[group].cache, self._host[group], self._disk[group]
        # A disk that does not answer must not cost every request its wait.
        ask_disk = not (self._disk_late and self._num_reading)
        for block_hash in hashes:
            block = cache.get(block_hash)
            if block is None and not host.ready(block_hash):
                load = self._loads.get((group, block_hash))
                coming = load is not None and load.block >= 0
                if not coming and not (ask_disk and disk.ready(block_hash)):
                    return
            yield block_hash, block

    def _let_go(self, wait: Wait) -> None:
        for group, block in reversed(wait.held):
            self._blocks.pools[group].free(block)
        wait.held.clear()

    def _stop_waiting(self, seq: Sequence, wait: Wait) -> None:
        if not wait.pending:
            return
        for place in wait.pending:
            self._loads[place].waiters.discard(seq)
        wait.pending.clear()
        unwanted = [load for load in self._to_read if not load.waiters]
        if not unwanted:
            return
        self._to_read = deque(load for load in self._to_read if load.waiters)
        for load in unwanted:
            self._disk[load.group].close(load.block_hash)
            self._end(load)

    # --- a block's way up ---

    def _load(self, place: Place) -> Load:
        """The block's load, begun if it is not on its way. Its copy stays where it is."""
        load = self._loads.get(place)
        if load is None:
            load = self._loads[place] = Load(*place)
            host = self._host[load.group]
            if host.ready(load.block_hash):
                host.open(load.block_hash)
                host.num_hits += 1
                self._to_copy.append(load)
            else:
                self._disk[load.group].open(load.block_hash)
                self._to_read.append(load)
        return load

    def _read(self, load: Load) -> bool:
        """Disk to host; False while there is no slot for it."""
        host, disk = self._host[load.group], self._disk[load.group]
        if load.block_hash in host:
            # Saved again from the device, by one who has computed it since.
            if not host.ready(load.block_hash):
                return False
            disk.close(load.block_hash)
            host.open(load.block_hash)
            self._to_copy.append(load)
            return True
        slot = host.begin(load.block_hash)
        if slot is None:
            return False
        load.reading = True
        self._num_reading += 1
        self._tiers.read(load.group, load.block_hash, slot, lambda ok: self._was_read(load, ok))
        return True

    def _was_read(self, load: Load, ok: bool) -> None:
        host, disk = self._host[load.group], self._disk[load.group]
        load.reading = False
        self._num_reading -= 1
        self._disk_late = False
        disk.close(load.block_hash)
        if ok:
            disk.num_hits += 1
            host.finish(load.block_hash)
            host.open(load.block_hash)
            self._to_copy.append(load)
        else:
            disk.num_failed += 1
            host.cancel(load.block_hash)
            disk.forget(load.block_hash)
            self._tiers.delete(load.group, load.block_hash)
            self._end(load)
        self.pump()

    def _copy(self, load: Load) -> None:
        """Host to device, if somebody still wants it and there is room."""
        host, pool = self._host[load.group], self._blocks.pools[load.group]
        if not load.waiters or pool.num_free <= self._headroom():
            host.close(load.block_hash)
            self._end(load)
            return
        slot = host.open(load.block_hash)
        host.close(load.block_hash)
        load.block = pool.allocate()
        self._num_copying += 1
        self._tiers.load(load.group, slot, load.block, lambda ok: self._was_copied(load, ok))

    def _was_copied(self, load: Load, ok: bool) -> None:
        host, pool = self._host[load.group], self._blocks.pools[load.group]
        self._num_copying -= 1
        if ok:
            self.num_promoted += 1
            pool.cache.add(load.block_hash, load.block)
        else:
            host.num_failed += 1
            host.forget(load.block_hash)
        host.close(load.block_hash)
        block, load.block = load.block, -1
        self._end(load)
        # After those that waited took their share.
        pool.free(block)
        self.pump()

    def _end(self, load: Load) -> None:
        """Nothing more comes of a load: its waiters hold the block if there is one now."""
        del self._loads[load.place]
        pool = self._blocks.pools[load.group]
        block = pool.cache.get(load.block_hash)
        for seq in load.waiters:
            wait = self._waits[seq]
            wait.pending.discard(load.place)
            if block is not None and not wait.is_hint:
                pool.share(block)
                wait.held.append((load.group, block))
            if wait.pending:
                continue
            if wait.is_hint:
                del self._waits[seq]
            else:
                self._wake()

    # --- for integrity checks ---

    def owned(self, group: int) -> Counter[int]:
        """Device blocks that loads and waits own."""
        owned = Counter(b for wait in self._waits.values() for g, b in wait.held if g == group)
        owned.update(
            load.block for load in self._loads.values() if load.group == group and load.block >= 0
        )
        return owned

    def host_readers(self, group: int) -> dict[bytes, int]:
        """Hash -> how many loads read its slot."""
        everything = {block_hash for g, block_hash in self._loads if g == group}
        return dict.fromkeys(everything - set(self.disk_readers(group)), 1)

    def disk_readers(self, group: int) -> dict[bytes, int]:
        queued = {load.block_hash for load in self._to_read if load.group == group}
        return dict.fromkeys(queued | self.filling(group), 1)

    def filling(self, group: int) -> set[bytes]:
        """Hashes whose host slot is being read into."""
        return {x.block_hash for x in self._loads.values() if x.group == group and x.reading}

    def waiting(self) -> list[Sequence]:
        return list(self._waits)
