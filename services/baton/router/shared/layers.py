"""What several processes know of workers together, and each expects by itself, as one index."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from baton.core.block_hash import IndexKeys
from baton.router.holder_sets import BestTiers
from baton.router.prefix_index import (
    NUM_SPANS,
    PREDICTED_TTL_S,
    IndexTier,
    Overlap,
    PrefixIndex,
    SetIds,
    count_runs,
    no_overlap,
    runs,
    until_unknown,
    until_zero,
)
from baton.router.shared.index import IndexView, WorkerKey

# A set of the shared index and one of the predictions, in the high and in the low half.
Pairs = npt.NDArray[np.uint64]
_LOW_BITS = 32
_LOW_MASK = 2**32 - 1
# Bits of a key that tell whether it was predicted lately (2 MiB of marks).
_MARK_MASK = 2**21 - 1
# A prediction may last so much longer than its time.
_LONGEST = NUM_SPANS / (NUM_SPANS - 1)


class LayeredIndex:
    """`match` and `predict` as PrefixIndex's. Where the shared index has no answer, only
    predictions count.
    """

    def __init__(self, shared: IndexView, predicted_ttl_s: float = PREDICTED_TTL_S) -> None:
        self._shared = shared
        self._predicted = PrefixIndex(predicted_ttl_s)
        self._marks = _Marks(_LONGEST * predicted_ttl_s)
        self._num_rows = 0

    def add_worker(self, row: int, worker: WorkerKey) -> None:
        """The worker has this row here."""
        self._num_rows = max(self._num_rows, row + 1)
        self._shared.add_worker(row, worker)

    def remove_worker(self, row: int) -> None:
        """The row is nobody's."""
        self._shared.remove_worker(row)
        self._predicted.drop_worker(row)

    def is_synced(self) -> bool:
        """All is known that those workers hold which have a row here."""
        return self._shared.is_synced()

    def expire(self, now: float) -> None:
        """See PrefixIndex."""
        self._predicted.expire(now)

    def predict(self, row: int, keys: IndexKeys, now: float) -> None:
        """See PrefixIndex."""
        lacks = self._shared.read(self._rows(row + 1), partial(self._lacks, row, keys))
        new = keys if lacks is None else keys[lacks]
        self._marks.add(new, now)
        self._predicted.predict(row, new, now)

    def match(self, keys: IndexKeys, now: float, num_rows: int | None = None) -> Overlap:
        """See PrefixIndex."""
        self._predicted.expire(now)
        rows = self._rows(num_rows or 0)
        wanted = rows if num_rows is None else num_rows
        found = self._shared.read(rows, partial(self._match, keys, rows, wanted))
        return self._predicted.match(keys, now, wanted) if found is None else found

    def _rows(self, least: int) -> int:
        """Above all rows here; it only grows, since what is kept by row is computed again then."""
        self._num_rows = max(self._num_rows, least, self._predicted.num_rows)
        return self._num_rows

    def _match(self, keys: IndexKeys, num_rows: int, wanted: int) -> Overlap:
        has_predicted = self._predicted.num_keys > 0
        pairs = until_unknown(keys, self._pairs if has_predicted else self._sets)
        if not len(pairs):
            return no_overlap(wanted)
        starts, lengths = runs(pairs)
        of_runs = pairs[starts]

        def best_tiers(some: slice) -> BestTiers:
            best = self._best_of_pair if has_predicted else self._best_of_shared
            return np.stack([best(ids, num_rows) for ids in of_runs[some].tolist()])

        return count_runs(lengths, best_tiers, num_rows, wanted)

    def _sets(self, keys: IndexKeys) -> SetIds:
        """Of keys up to the first that nobody holds."""
        return until_zero(self._shared.set_ids(keys))

    def _pairs(self, keys: IndexKeys) -> Pairs:
        pairs: Pairs = self._shared.set_ids(keys).astype(np.uint64)
        pairs <<= np.uint64(_LOW_BITS)
        # Most keys were not predicted, and to find that out in the index takes twice as long.
        (maybe,) = self._marks.may_have(keys).nonzero()
        if len(maybe):
            pairs[maybe] |= self._predicted.set_ids(keys[maybe])
        return until_zero(pairs)

    def _best_of_pair(self, pair: int, num_rows: int) -> BestTiers:
        shared = self._shared.best_tiers(pair >> _LOW_BITS)
        predicted = pair & _LOW_MASK
        if not predicted:
            return shared
        return np.minimum(shared, self._predicted.best_tiers(predicted, num_rows))

    def _best_of_shared(self, set_id: int, num_rows: int) -> BestTiers:
        return self._shared.best_tiers(set_id)

    def _lacks(self, row: int, keys: IndexKeys) -> npt.NDArray[np.bool_]:
        """Mask: keys whose blocks the worker has not on its device."""
        set_ids = self._shared.set_ids(keys)
        lacks = np.ones(len(keys), np.bool_)
        if len(keys):
            starts, lengths = runs(set_ids)
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                best = self._shared.best_tiers(int(set_ids[start]))
                if best[row] == IndexTier.DEVICE:
                    lacks[start : start + length] = False
        return lacks


class _Marks:
    """Keys that were added within `lifetime_s`, some that were not, and some older ones."""

    def __init__(self, lifetime_s: float) -> None:
        self._lifetime_s = lifetime_s
        # By a key's low bits, the generation that it was added in; counted round.
        self._generations = np.zeros(_MARK_MASK + 1, np.uint8)
        self._generation = np.uint8(2)
        self._since = 0.0

    def add(self, keys: IndexKeys, now: float) -> None:
        if now - self._since > self._lifetime_s:
            self._generation = np.uint8((int(self._generation) + 1) % 256)
            self._since = now
        self._generations[keys.view(np.int64) & _MARK_MASK] = self._generation

    def may_have(self, keys: IndexKeys) -> npt.NDArray[np.bool_]:
        """Mask: keys that were added in this generation or in the one before."""
        found: npt.NDArray[np.bool_] = (
            self._generation - self._generations.take(keys.view(np.int64) & _MARK_MASK) <= 1
        )
        return found
