"""What one worker says of its cache, applied to the prefix index. Pure."""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol

from baton.core.block_hash import IndexKeys, index_keys
from baton.gateway.workers.event_lag import EventLag
from baton.gateway.workers.prompt_hashes import HashScope
from baton.router.prefix_index import IndexTier
from baton.v1 import common_pb2, events_pb2

_TIERS = {
    events_pb2.KV_TIER_DEVICE: IndexTier.DEVICE,
    events_pb2.KV_TIER_HOST: IndexTier.HOST,
    events_pb2.KV_TIER_DISK: IndexTier.DISK,
}
# Groups whose layers look back on all tokens. A window's blocks come and go with the window: they
# tell nothing of how much of a prompt can be served.
_FULL_KINDS = (common_pb2.GroupSpec.KIND_FULL, common_pb2.GroupSpec.KIND_MLA)


class Heard(Enum):
    """What a message was. After GAP ask again, from the start."""

    CHUNK = auto()
    SNAPSHOT = auto()
    DELTA = auto()
    GAP = auto()


def indexed_group(lease: common_pb2.WorkerLease) -> int | None:
    """The attention group of a worker that is indexed, or None.

    The first full one. A prompt's blocks enter all groups together, so where there are several the
    first speaks for the others; should they evict differently it says more than all can serve. Its
    blocks must be as large as those in which the worker reports its capacity, the unit of policies.
    """
    for number, group in enumerate(lease.groups):
        if group.kind in _FULL_KINDS and group.block_size == lease.capacity.block_size:
            return number
    return None


def hash_scope(lease: common_pb2.WorkerLease) -> HashScope:
    """Of the indexed group's hashes."""
    return HashScope(lease.digest, lease.capacity.block_size)


class FedIndex(Protocol):
    """An index of this process, or one that it shares with others: as PrefixIndex's."""

    def store(self, row: int, tier: IndexTier, keys: IndexKeys) -> None:
        """A worker has these blocks on a tier."""

    def remove(self, row: int, tier: IndexTier, keys: IndexKeys) -> None:
        """A worker no longer has these blocks on a tier."""

    def drop_worker(self, row: int) -> None:
        """Forget everything about a worker."""


class KvFeed:
    """Follows one worker's numbered events from a snapshot on."""

    def __init__(self, index: FedIndex, row: int, group: int, epoch: int) -> None:
        self._index = index
        self._row = row
        self._group = group
        self._epoch = epoch
        self._lag = EventLag()
        # None until a snapshot is complete.
        self._last_id: int | None = None
        # The event of the snapshot that is coming in.
        self._snapshot_id: int | None = None

    @property
    def is_synced(self) -> bool:
        """The index is what the worker held when it sent its newest event."""
        return self._last_id is not None

    def request(self) -> events_pb2.KvEventsRequest:
        """What to ask a new stream for: what comes next, or a snapshot."""
        self._snapshot_id = None
        return events_pb2.KvEventsRequest(
            worker_epoch=self._epoch, after_event_id=self._last_id or 0
        )

    def doubt(self) -> None:
        """A message could not be applied: start again from a snapshot."""
        self._last_id = None

    def lag_s(self, delta: events_pb2.KvDelta, now: float) -> float | None:
        """How late a delta was that has been applied `now`; None from a worker without a clock."""
        return self._lag.of(delta.changed_at_us / 1e6, now) if delta.changed_at_us else None

    def take(self, response: events_pb2.KvEventsResponse) -> Heard:
        """Apply a message. Raises ValueError for one that no worker of ours sends."""
        if response.worker_epoch != self._epoch:
            # Another life of the worker: nothing that was known is true.
            self._forget()
            self._epoch = response.worker_epoch
            self._lag = EventLag()
        kind = response.WhichOneof("message")
        if kind == "snapshot":
            return self._take_chunk(response.snapshot)
        if kind == "delta":
            return self._take_delta(response.delta)
        raise ValueError("neither a snapshot nor a delta")

    def _take_chunk(self, chunk: events_pb2.KvSnapshotChunk) -> Heard:
        # A worker starts a new snapshot unasked when its log is too short for us.
        if self._snapshot_id != chunk.event_id:
            self._forget()
            self._snapshot_id = chunk.event_id
        for blocks in chunk.blocks:
            self._change(blocks, is_stored=True)
        if not chunk.last:
            return Heard.CHUNK
        self._last_id, self._snapshot_id = chunk.event_id, None
        return Heard.SNAPSHOT

    def _take_delta(self, delta: events_pb2.KvDelta) -> Heard:
        if self._last_id is None or delta.event_id != self._last_id + 1:
            self._last_id = None
            return Heard.GAP
        # A hash is in one list of a tier only. Who looks meanwhile is to find it on some tier.
        for blocks in delta.stored:
            self._change(blocks, is_stored=True)
        for blocks in delta.removed:
            self._change(blocks, is_stored=False)
        self._last_id = delta.event_id
        return Heard.DELTA

    def _change(self, blocks: events_pb2.KvBlocks, *, is_stored: bool) -> None:
        tier = _TIERS.get(blocks.tier)
        if blocks.group != self._group or tier is None:
            return
        change = self._index.store if is_stored else self._index.remove
        change(self._row, tier, index_keys(blocks.hashes))

    def _forget(self) -> None:
        self._index.drop_worker(self._row)
        self._last_id = self._snapshot_id = None
