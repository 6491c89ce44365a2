"""One prefix index for several processes: one writes what workers say, all look up.

Nobody waits for anybody. What a lookup says of a block was so at one moment of it, for each block:
keys that move are at both places until the table's shape says where they are; a value is believed
when its slot is still the key's; a set's members stay as they are while anybody may know its id.

Rows of the index are the writer's. A directory says which worker each one is, so that a reader
finds its own rows; a row that it does not know does not exist for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from baton.core.block_hash import IndexKeys
from baton.router.holder_sets import ABSENT, LEVELS, MAX_BEST_BYTES, BestTiers, HolderSets
from baton.router.key_table import BUCKET_SLOTS, KeyTable, Values
from baton.router.prefix_index import TIER_OF_LEVEL, IndexTier, PrefixIndex, SetIds
from baton.router.shared.barrier import barrier, can_share
from baton.router.shared.memory import SharedArray, SharedFile
from baton.router.shared.sets import SharedSets

T = TypeVar("T")

_STATE, _DIRECTORY, _KEYS, _VALUES, _SPANS = range(5)
_ARENAS: Final = (5, 6)
# Words of the state: the table's shape, how many rows the directory has and how often it changed,
# sets that have died, and moves of members.
_SHAPE, _NUM_ROWS, _DIRECTORY_VERSION, _RELEASED, _MOVES = range(5)
# Of a shape, the bits that say which power of two the number of buckets is.
_SHAPE_BITS: Final = 6
# Columns of the directory: who has the row, or 0, and whether all that it holds is known.
_WORKER, _SYNCED = range(2)

# Mapped from the start, as a table of its own reserves it.
_LEAST_BUCKETS: Final = 2**22
_LEAST_ROWS: Final = 2**10
# A set's id is another set's after so many others have died; no lookup takes so long.
_UNUSED_IDS: Final = 2**14
# Looks at keys that were moved meanwhile, and lookups in whose time a row became another worker's
# or too many sets went.
_MAX_LOOKS: Final = 16
_MAX_TRIES: Final = 4

WorkerKey = int


def worker_key(worker_id: str, epoch: int) -> WorkerKey:
    """One life of a worker, as all processes call it."""
    name = f"{epoch:x} {worker_id}".encode()
    return max(1, int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little"))


class _SharedArrays:
    """A key table's arrays in the file."""

    def __init__(self, file: SharedFile, state: npt.NDArray[np.int64], *, writable: bool) -> None:
        self._state = state
        self._keys = SharedArray(
            file, _KEYS, np.int64, (BUCKET_SLOTS,), least=_LEAST_BUCKETS, writable=writable
        )
        self._values = SharedArray(
            file, _VALUES, np.uint32, (BUCKET_SLOTS,), least=_LEAST_BUCKETS, writable=writable
        )

    def reserve(self, num_buckets: int) -> tuple[npt.NDArray[np.int64], Values]:
        return self._keys.reserve(num_buckets), self._values.reserve(num_buckets).reshape(-1)

    def show(self, shape: tuple[int, int]) -> None:
        num_buckets, num_split = shape
        barrier()
        self._state[_SHAPE] = num_split << _SHAPE_BITS | num_buckets.bit_length() - 1
        barrier()


def _state(file: SharedFile, *, writable: bool) -> npt.NDArray[np.int64]:
    state: npt.NDArray[np.int64] = SharedArray(
        file, _STATE, np.int64, least=8, writable=writable
    ).rows
    return state


class IndexWriter:
    """What workers say goes in here. There is one of it, made before any view."""

    def __init__(self, file: SharedFile) -> None:
        can_share()
        self._state = _state(file, writable=True)
        self._directory = SharedArray(
            file, _DIRECTORY, np.uint64, (2,), least=_LEAST_ROWS, writable=True
        )
        arrays = _SharedArrays(file, self._state, writable=True)
        table = KeyTable(arrays)
        arrays.show(table.shape)
        self._members = SharedSets(file, _SPANS, _ARENAS, self._moves(), writable=True)
        self._sets = HolderSets(TIER_OF_LEVEL, self._put, _UNUSED_IDS)
        # The same index, for what only the writer asks of it.
        self.index = PrefixIndex(table=table, sets=self._sets)

    def add_worker(self, row: int, worker: WorkerKey) -> None:
        """From now on the row is this worker's. It holds nothing yet."""
        self._tell(row, worker)

    def remove_worker(self, row: int) -> None:
        """Forget the worker and what it holds."""
        self._tell(row, 0)
        self._drop(row)

    def set_synced(self, row: int, is_synced: bool) -> None:
        """Whether all that the row's worker holds is known."""
        self._directory.rows[row, _SYNCED] = is_synced

    def store(self, row: int, tier: IndexTier, keys: IndexKeys) -> None:
        """See PrefixIndex."""
        barrier()
        self.index.store(row, tier, keys)

    def remove(self, row: int, tier: IndexTier, keys: IndexKeys) -> None:
        """See PrefixIndex."""
        barrier()
        self.index.remove(row, tier, keys)

    def drop_worker(self, row: int) -> None:
        """See PrefixIndex."""
        worker = int(self._directory.reserve(row + 1)[row, _WORKER])
        # Readers see it done at once.
        self._tell(row, 0)
        self._drop(row)
        self._tell(row, worker)

    def _drop(self, row: int) -> None:
        self.index.drop_worker(row)
        self._state[_RELEASED] = self._sets.num_released

    def _put(self, set_id: int, members: bytes) -> None:
        # Who knew the id as another set's is to see that it is long dead.
        self._state[_RELEASED] = self._sets.num_released
        barrier()
        self._members.put(set_id, members)

    def _tell(self, row: int, worker: WorkerKey) -> None:
        self._directory.reserve(row + 1)[row] = worker, 0
        self._state[_NUM_ROWS] = max(int(self._state[_NUM_ROWS]), row + 1)
        barrier()
        self._state[_DIRECTORY_VERSION] += 1
        barrier()

    def _moves(self) -> npt.NDArray[np.int64]:
        return self._state[_MOVES : _MOVES + 1]


class IndexView:
    """The same index in a process that looks up, with the process' own rows."""

    def __init__(self, file: SharedFile) -> None:
        can_share()
        self._state = state = _state(file, writable=False)
        self._directory = SharedArray(
            file, _DIRECTORY, np.uint64, (2,), least=_LEAST_ROWS, writable=False
        )
        self._table = KeyTable(_SharedArrays(file, state, writable=False))
        moves = state[_MOVES : _MOVES + 1]
        self._sets = SharedSets(file, _SPANS, _ARENAS, moves, writable=False)
        self._tiers = np.array(TIER_OF_LEVEL, np.uint8)
        self._rows: dict[WorkerKey, int] = {}
        # Whose each of the writer's rows is, and its row here, -1 without; as of this version of
        # the directory.
        self._workers = np.zeros(0, np.uint64)
        self._row_of = np.zeros(0, np.intp)
        self._directory_version = -1
        # Set to its life and best tiers.
        self._best: dict[int, tuple[int, BestTiers]] = {}
        self._num_rows = 0

    def add_worker(self, row: int, worker: WorkerKey) -> None:
        """The worker has this row here."""
        self._rows[worker] = row
        self._directory_version = -1

    def remove_worker(self, row: int) -> None:
        """The row is nobody's."""
        self._rows = {worker: other for worker, other in self._rows.items() if other != row}
        self._directory_version = -1

    def is_synced(self) -> bool:
        """All is known that those workers hold which have a row here."""
        entries = self._entries()
        return self._rows.keys() <= set(entries[entries[:, _SYNCED] != 0, _WORKER].tolist())

    def read(self, num_rows: int, look: Callable[[], T]) -> T | None:
        """What `look` finds; None when rows or ids become others' in the time of each look.

        In `look` only, `set_ids` and `best_tiers` may be asked. `num_rows` is above all rows here.
        """
        state = self._state
        for _ in range(_MAX_TRIES):
            num_released = int(state[_RELEASED])
            self._learn_rows(num_rows)
            seen = look()
            if state[_RELEASED] - num_released >= _UNUSED_IDS:
                self._best.clear()
            elif state[_DIRECTORY_VERSION] == self._directory_version or self._rows_stayed():
                return seen
        return None

    def set_ids(self, keys: IndexKeys) -> SetIds:
        """See PrefixIndex."""
        table, shape = self._table, self._follow()
        ids, in_doubt = table.get_while_changing(keys)
        for _ in range(_MAX_LOOKS):
            if self._state[_SHAPE] != shape:
                # What was not found may have moved.
                in_doubt |= ids == 0
                shape = self._follow()
            (again,) = in_doubt.nonzero()
            if not len(again):
                break
            ids[again], in_doubt[again] = table.get_while_changing(keys[again])
        ids[in_doubt] = 0
        return ids

    def best_tiers(self, set_id: int) -> BestTiers:
        """Best tier of each row here: [num_rows]."""
        life = self._sets.life(set_id)
        known = self._best.get(set_id)
        if known is not None and known[0] == life:
            return known[1]
        best = np.full(self._num_rows, ABSENT, np.uint8)
        members = self._sets.members(set_id)
        if members is None:
            return best
        # Backwards, so that the best level of a row comes last and stays.
        members = members[::-1]
        # A row that is newer than the directory here is nobody's, as the one behind the last.
        rows = self._row_of.take(members // LEVELS, mode="clip")
        is_here = rows >= 0
        best[rows[is_here]] = self._tiers[members[is_here] % LEVELS]
        if len(self._best) * self._num_rows > MAX_BEST_BYTES:
            self._best.clear()
        self._best[set_id] = life, best
        return best

    def _follow(self) -> int:
        shape = int(self._state[_SHAPE])
        self._table.follow((1 << (shape & (1 << _SHAPE_BITS) - 1), shape >> _SHAPE_BITS))
        return shape

    def _learn_rows(self, num_rows: int) -> None:
        version = int(self._state[_DIRECTORY_VERSION])
        if version != self._directory_version or num_rows != self._num_rows:
            self._best.clear()
            self._workers = self._entries()[:, _WORKER].copy()
            here = [self._rows.get(worker, -1) for worker in self._workers.tolist()]
            self._row_of = np.array([*here, -1], np.intp)
            self._directory_version, self._num_rows = version, num_rows

    def _rows_stayed(self) -> bool:
        """No row that was seen as one of ours is another worker's. One that left may have it yet:
        what was seen was so before.
        """
        now = self._entries()[: len(self._workers), _WORKER]
        stayed = (now == self._workers) | (now == 0)
        return bool(stayed[self._row_of[:-1] >= 0].all())

    def _entries(self) -> npt.NDArray[Any]:
        num_rows = int(self._state[_NUM_ROWS])
        return self._directory.reserve(num_rows)[:num_rows]
