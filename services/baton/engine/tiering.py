"""Lower tiers of the prefix cache: what is copied down, and when; `promotions` is the way up. Pure.

Device -> host -> disk. Blocks that have fallen idle are copied to the host in the background, and
from there to the disk, so that evicting one later costs nothing and waits for nothing. A block
being copied is in use and cannot be handed out; one that is evicted before its copy was made is
lost from the cache, and counted. See docs/tiers.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from baton.core.clock import Clock
from baton.core.settings import TierSettings
from baton.engine.block_manager import BlockManager
from baton.engine.lower_tiers import LowerTiers, TierSizes
from baton.engine.outputs import CacheDelta, Tier, TierLoad
from baton.engine.promotions import Promotions
from baton.engine.sequence import Status
from baton.engine.tier_index import TierIndex

# At most this share of a pool is being copied out at once.
MAX_SAVING_SHARE = 0.25
# After a failed write the disk is left alone for so long; it is full, or worse.
WRITE_PAUSE_S = 30.0


class Tiering:
    """The tiers below one engine's pools. Everything is called on the engine's thread."""

    def __init__(
        self,
        settings: TierSettings,
        blocks: BlockManager,
        sizes: Sequence[TierSizes],
        tiers: LowerTiers,
        clock: Clock,
        *,
        headroom: Callable[[], int],
        wake: Callable[[], None],
    ) -> None:
        """`headroom()`: device blocks to leave alone. `wake()`: the next step may do more."""
        self._blocks = blocks
        self._tiers = tiers
        self._clock = clock
        self._headroom = headroom
        self._wake = wake
        self._max_writing = settings.max_copies
        self._has_disk = any(size.disk_records for size in sizes)
        self._host = [TierIndex(s.host_slots, s.host_record_bytes) for s in sizes]
        self._is_staging = [size.host_is_staging for size in sizes]
        self._disk = [
            TierIndex(s.disk_records, s.disk_record_bytes, partial(tiers.delete, group))
            for group, s in enumerate(sizes)
        ]
        self._max_saving = [
            max(1, min(settings.max_copies, int(pool.size * MAX_SAVING_SHARE)))
            for pool in blocks.pools
        ]
        self._demote_until = [pool.size * settings.demote_share for pool in blocks.pools]
        # On their way down: device blocks by hash, and hashes that the disk is writing.
        self._saving: list[dict[bytes, int]] = [{} for _ in sizes]
        self._writing: list[set[bytes]] = [set() for _ in sizes]
        # Until an earlier life's records are known, they might be written twice.
        self._disk_known = False
        self._paused_until = 0.0
        self.promotions = Promotions(
            blocks,
            self._host,
            self._disk,
            tiers,
            wait_s=settings.promote_wait_s,
            max_copies=settings.max_copies,
            headroom=headroom,
            wake=wake,
        )

    @property
    def due(self) -> bool:
        """Whether there is something to demote or to report, or a sequence has waited enough."""
        if any(pool.cache.fell_idle for pool in self._blocks.pools) or self._changed:
            return True
        deadline = self.promotions.next_deadline()
        return deadline is not None and deadline <= self._clock()

    @property
    def _changed(self) -> bool:
        return any(index.changes for index in (*self._host, *self._disk))

    def pump(self) -> None:
        """Start what can be: blocks on their way up first."""
        self.promotions.pump()
        for group in range(len(self._host)):
            self._save(group)
            self._write(group)

    # --- an earlier life's records, posted by the disk ---

    def found(self, group: int, hashes: Sequence[bytes]) -> None:
        """Disk records of an earlier life, newest first and newer than all found before."""
        for block_hash in self._disk[group].discover(hashes):
            self._tiers.delete(group, block_hash)
        self._wake()

    def all_found(self, foreign_bytes: int) -> None:
        """No more `found` will come. `foreign_bytes` of the budget belong to others' records."""
        for index in self._disk if foreign_bytes else ():
            share = foreign_bytes / len(self._disk)
            index.shrink(-int(-share // index.record_bytes))
        self._disk_known = True
        self.pump()

    # --- device to host ---

    def _save(self, group: int) -> None:
        pool, host = self._blocks.pools[group], self._host[group]
        cache, saving = pool.cache, self._saving[group]
        cache.fell_idle = False
        while pool.num_unused + cache.num_demoted + len(saving) < self._demote_until[group]:
            block = cache.oldest_undemoted()
            if block is None:
                return
            block_hash = cache.hash_of(block)
            if block_hash in host or block_hash in self._disk[group]:
                cache.demote(block)
                continue
            if len(saving) >= self._max_saving[group] or pool.num_free <= self._headroom():
                return
            # Where all that is saved is to be written on, one that is not yet is worth as much.
            slot = host.begin(block_hash, keep_unsaved=self._is_staging[group])
            if slot is None:
                return
            pool.share(block)
            saving[block_hash] = block
            self._tiers.save(group, block, slot, partial(self._was_saved, group, block_hash))

    def _was_saved(self, group: int, block_hash: bytes, ok: bool) -> None:
        host = self._host[group]
        if ok:
            host.num_stored += 1
            wanted = self._has_disk and block_hash not in self._disk[group]
            host.finish(block_hash, unsaved=wanted)
        else:
            host.num_failed += 1
            host.cancel(block_hash)
        self._blocks.pools[group].unpin(self._saving[group].pop(block_hash))
        self._wake()
        self.pump()

    # --- host to disk ---

    def _write(self, group: int) -> None:
        host, disk, writing = self._host[group], self._disk[group], self._writing[group]
        if not self._disk_known or self._clock() < self._paused_until:
            return
        while len(writing) < self._max_writing:
            block_hash = host.next_unsaved()
            if block_hash is None or disk.begin(block_hash) is None:
                return
            host.saved(block_hash)
            writing.add(block_hash)
            slot = host.open(block_hash)
            self._tiers.write(
                group, slot, block_hash, partial(self._was_written, group, block_hash)
            )

    def _was_written(self, group: int, block_hash: bytes, ok: bool) -> None:
        disk = self._disk[group]
        if ok:
            disk.num_stored += 1
            disk.finish(block_hash)
        else:
            disk.num_failed += 1
            disk.cancel(block_hash)
            self._paused_until = self._clock() + WRITE_PAUSE_S
        self._writing[group].discard(block_hash)
        self._host[group].close(block_hash)
        self.pump()

    # --- what others want to know ---

    def take_changes(self) -> list[CacheDelta]:
        """What came to the lower tiers, and left them, since the last call."""
        return [
            CacheDelta(group, *index.changes.take(), tier=tier)
            for tier, indexes in ((Tier.HOST, self._host), (Tier.DISK, self._disk))
            for group, index in enumerate(indexes)
            if index.changes
        ]

    def load(self) -> tuple[TierLoad, ...]:
        """One entry per lower tier, over all groups, counted since the start."""
        loads = []
        for tier, indexes in ((Tier.HOST, self._host), (Tier.DISK, self._disk)):
            # What left a tier without a copy of it being made is that tier's drop from above.
            above = [pool.cache for pool in self._blocks.pools] if tier is Tier.HOST else self._host
            loads.append(
                TierLoad(
                    tier,
                    used_bytes=sum(index.used_bytes for index in indexes),
                    capacity_bytes=sum(index.capacity * index.record_bytes for index in indexes),
                    hits=sum(index.num_hits for index in indexes),
                    demotions=sum(index.num_stored for index in indexes),
                    drops=sum(cache.num_dropped for cache in above),
                    failures=sum(index.num_failed for index in indexes),
                )
            )
        return tuple(loads[: 2 if self._has_disk else 1])

    def owned(self, group: int) -> Counter[int]:
        """Device blocks that are in use by copies and by sequences that wait for them."""
        owned = self.promotions.owned(group)
        owned.update(self._saving[group].values())
        return owned

    def check(self) -> None:
        """Assert that every copy is accounted for."""
        for group, (host, disk) in enumerate(zip(self._host, self._disk, strict=True)):
            readers = Counter(self.promotions.host_readers(group))
            readers.update(self._writing[group])
            host.check(dict(readers), {*self._saving[group], *self.promotions.filling(group)})
            disk.check(self.promotions.disk_readers(group), self._writing[group])
        for seq in self.promotions.waiting():
            assert seq.status is Status.WAITING, "a sequence that runs waits for blocks"
