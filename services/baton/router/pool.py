"""Live workers in columns: who they are, what they report, what this gateway has placed on them.

One row per worker; a row's index is stable while its worker lives and is reused afterwards. Load
reports lag behind, so placements count from the moment of dispatch: as `inflight` until they end,
in `unreported` until a report knows of them, in `booked_blocks` until the worker has begun.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from baton.planner.rates import Learnt, PoolKey, RateFits, Rates, StepReport
from baton.router.columns import LEAST_ROWS, Columns, RowNumbers
from baton.router.derived import derive_load, derive_speed
from baton.router.groups import Group, candidates, groups
from baton.router.traffic import Split
from baton.v1 import common_pb2, session_pb2

# Until a link has been measured: TCP on a 10 Gb/s network.
DEFAULT_LINK_BYTES_PER_S = 1e9
_ITEM_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(slots=True, eq=False)
class Booking:
    """A placement on one worker: `sequences`, prompt `tokens` that it computes, KV `blocks`, tokens
    of the prompt that its caches are believed to hold, blocks that the output is expected to take.
    `slot` is the submission's, by which reports tell that they know of it; at 0 any one does.
    """

    row: int
    life: int
    sequences: int
    tokens: int
    blocks: int
    cached_tokens: int = 0
    expected_blocks: int = 0
    slot: int = 0
    reported: bool = False
    begun: bool = False
    ended: bool = False


class Pool:
    """Adds, removes and updates rows; see the module."""

    def __init__(self) -> None:
        self._columns = Columns()
        # Rows whose columns that are made of others are to be made again.
        self._stale: set[int] = set()
        self._worker_ids: list[str | None] = [None] * len(self._columns)
        self._names: dict[str, int] = {}
        self._num_placed = 0
        self._num_lives = 0
        self._rates = RateFits()
        # By row, bookings that its newest report does not know of.
        self._unreported: dict[int, list[Booking]] = {}
        # By model; emptied when a worker comes or goes, or changes what it may do.
        self._candidates: dict[str, RowNumbers] = {}
        self._groups: dict[str, tuple[Group, ...]] = {}
        self._splits: dict[str, Split] = {}
        # Of revisions, set by an operator.
        self._weights: Mapping[str, float] = {}

    @property
    def columns(self) -> Columns:
        """Good until the next change here: ask anew after it."""
        if self._stale:
            for row in self._stale:
                derive_load(self._columns, row)
            self._stale.clear()
        return self._columns

    def __len__(self) -> int:
        return int(np.count_nonzero(self._columns.used))

    def intern(self, name: str) -> int:
        """A number for a model's name, a digest or a revision."""
        return self._names.setdefault(name, len(self._names))

    def worker_id(self, row: int) -> str:
        """Whose row it is. Raises KeyError for an unused one."""
        worker_id = self._worker_ids[row]
        if worker_id is None:
            raise KeyError(row)
        return worker_id

    def kind(self, row: int) -> tuple[int, int]:
        """The worker's revision and digest, interned."""
        return self._columns.revision.item(row), self._columns.digest.item(row)

    # --- workers ---

    def add(self, lease: common_pb2.WorkerLease) -> int:
        """Take a worker in, down until `set_up`; returns its row."""
        columns = self._columns
        free = np.flatnonzero(~columns.used)
        if not len(free):
            row = len(columns)
            self._resize(2 * row)
            columns = self._columns
        else:
            row = int(free[0])
        self._num_lives += 1
        columns.used[row] = True
        columns.life[row] = self._num_lives
        worker_id = lease.worker.worker_id
        self._worker_ids[row] = worker_id
        hashed = hashlib.blake2b(worker_id.encode(), digest_size=8).digest()
        columns.id_hash[row] = int.from_bytes(hashed, "little")
        columns.link_bytes_per_s[row] = DEFAULT_LINK_BYTES_PER_S
        # Until its first report, a worker counts as idle.
        columns.queue_room[row] = max(1, lease.capacity.max_sequences)
        columns.free_blocks[row] = lease.capacity.num_blocks
        self.update(row, lease)
        return row

    def update(self, row: int, lease: common_pb2.WorkerLease) -> None:
        """Take what a lease says; a role may change while the worker lives."""
        columns = self._columns
        columns.model[row] = self.intern(lease.model)
        columns.digest[row] = self.intern(lease.digest)
        columns.revision[row] = self.intern(lease.revision)
        columns.role[row] = lease.role
        columns.num_blocks[row] = lease.capacity.num_blocks
        columns.block_size[row] = max(1, lease.capacity.block_size)
        columns.block_bytes[row] = sum(map(_block_bytes, lease.groups))
        columns.max_sequences[row] = max(1, lease.capacity.max_sequences)
        columns.max_batch_tokens[row] = max(1, lease.capacity.max_batch_tokens)
        self._take_rates(row, self._rates.prior(self._alike(row)))
        self._stale.add(row)
        self._regroup()

    def remove(self, row: int) -> None:
        """Let a worker go. Bookings that it still had become void."""
        columns = self._columns
        self._rates.forget(columns.life.item(row))
        columns.clear(row)
        self._stale.discard(row)
        self._unreported.pop(row, None)
        self._worker_ids[row] = None
        self._regroup()
        used = np.flatnonzero(columns.used)
        needed = max(LEAST_ROWS, int(used[-1]) + 1 if len(used) else 0)
        # Shrink late, so that a worker that comes and goes costs no copies.
        if needed * 4 <= len(columns):
            self._resize(needed * 2)

    def set_up(self, row: int, up: bool) -> None:
        """Whether the worker's stream is alive: nothing is placed where it is not."""
        self._columns.up[row] = up
        self._regroup()

    def report(self, row: int, load: session_pb2.Load) -> None:
        """Take a load report. It does not know of what was on its way to the worker."""
        columns = self._columns
        columns.queue_room[row] = load.queue_room
        columns.num_waiting[row] = load.num_waiting
        columns.num_running[row] = load.num_running
        columns.queued_prefill_tokens[row] = load.queued_prefill_tokens
        columns.free_blocks[row] = load.free_blocks
        columns.cached_blocks[row] = load.cached_blocks
        columns.short_of_blocks[row] = load.short_of_blocks
        if columns.draining[row] != load.draining:
            columns.draining[row] = load.draining
            self._regroup()
        for booking in list(self._unreported.get(row, ())):
            if booking.slot <= load.newest_slot:
                self._take_off(booking)
                if not booking.begun:
                    columns.credited_tokens[row] += booking.cached_tokens
        self._measure(row, load)
        self._stale.add(row)

    # --- placements ---

    def book(
        self,
        row: int,
        *,
        sequences: int,
        tokens: int,
        blocks: int,
        cached_tokens: int = 0,
        expected_blocks: int = 0,
    ) -> Booking:
        """Count a placement; `tokens` is 0 for one that waits for KV from elsewhere."""
        columns = self._columns
        self._num_placed += 1
        columns.placed_at[row] = self._num_placed
        columns.inflight[row] += sequences
        columns.booked_blocks[row] += blocks
        columns.expected_blocks[row] += expected_blocks
        life = columns.life.item(row)
        booking = Booking(row, life, sequences, tokens, blocks, cached_tokens, expected_blocks)
        if tokens:
            columns.unreported[row] += 1
            columns.unreported_sequences[row] += sequences
            columns.unreported_tokens[row] += tokens
            self._unreported.setdefault(row, []).append(booking)
        else:
            columns.awaiting_kv[row] += sequences
        self._stale.add(row)
        return booking

    def begin(self, booking: Booking) -> None:
        """The worker has given it blocks: its reports show them from here on. Idempotent."""
        if booking.begun or booking.ended or not self._is_valid(booking):
            return
        self._unbook(booking)
        booking.begun = True
        self._stale.add(booking.row)

    def end(self, booking: Booking) -> None:
        """The placement is over, or its worker is gone. Idempotent."""
        if booking.ended:
            return
        if self._is_valid(booking):
            columns, row = self._columns, booking.row
            columns.inflight[row] -= booking.sequences
            columns.expected_blocks[row] -= booking.expected_blocks
            if not booking.begun:
                self._unbook(booking)
            if booking.tokens and not booking.reported:
                self._take_off(booking)
            self._stale.add(row)
        booking.ended = True

    def _unbook(self, booking: Booking) -> None:
        """It no longer counts as one that has not begun."""
        columns, row = self._columns, booking.row
        columns.booked_blocks[row] -= booking.blocks
        if not booking.tokens:
            columns.awaiting_kv[row] -= booking.sequences
        elif booking.reported:
            columns.credited_tokens[row] -= booking.cached_tokens

    def _take_off(self, booking: Booking) -> None:
        """It no longer counts as one that no report knows of."""
        columns, row = self._columns, booking.row
        self._unreported[row].remove(booking)
        booking.reported = True
        columns.unreported[row] -= 1
        columns.unreported_sequences[row] -= booking.sequences
        columns.unreported_tokens[row] -= booking.tokens

    # --- who may serve ---

    def candidates(self, model: str) -> RowNumbers:
        """Rows of workers that take new requests for a model."""
        found = self._candidates.get(model)
        if found is None:
            found = candidates(self._columns, self._names.get(model, -1))
            self._candidates[model] = found
        return found

    def groups(self, model: str) -> tuple[Group, ...]:
        """The same, by revision, digest and role."""
        found = self._groups.get(model)
        if found is None:
            found = self._groups[model] = groups(self._columns, self._names.get(model, -1))
        return found

    def split(self, model: str) -> Split:
        """How new requests for a model are split between the revisions that serve it now."""
        found = self._splits.get(model)
        if found is None:
            groups = self.groups(model)
            numbers = {group.revision for group in groups}
            names = {number: name for name, number in self._names.items() if number in numbers}
            found = self._splits[model] = Split(self._columns, groups, names, self._weights)
        return found

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """An operator's weights of revisions; empty: capacity decides."""
        self._weights = weights
        self._splits.clear()

    def has_room(self, model: str) -> bool:
        """Some worker's waiting queue takes one more prompt for a model."""
        return bool(np.count_nonzero(self.columns.has_room[self.candidates(model)]))

    def _regroup(self) -> None:
        self._candidates.clear()
        self._groups.clear()
        self._splits.clear()

    # --- what follows from what is known ---

    def _alike(self, row: int) -> PoolKey:
        columns = self._columns
        return PoolKey(columns.digest.item(row), columns.role.item(row))

    def _measure(self, row: int, load: session_pb2.Load) -> None:
        """How fast the worker is, and its links."""
        columns = self._columns
        report = StepReport(
            load.prefill_tokens_per_s,
            load.prefill_step_s,
            load.step_s,
            load.num_running,
            max(0, columns.num_blocks.item(row) - load.free_blocks),
            load.sequence_number,
        )
        learnt = self._rates.observe(columns.life.item(row), self._alike(row), report)
        links = [link.bytes_per_s for link in load.links if link.is_up and link.bytes_per_s > 0]
        link_bytes_per_s = columns.link_bytes_per_s.item(row)
        if links:
            columns.link_bytes_per_s[row] = sum(links) / len(links)
        if learnt is Learnt.OF_ALL:
            self._tell_all(columns.digest.item(row))
        elif learnt is Learnt.OF_WORKER:
            self._take_rates(row, self._rates.prior(self._alike(row)))
        elif columns.link_bytes_per_s.item(row) != link_bytes_per_s:
            derive_speed(columns, row)

    def _tell_all(self, digest: int) -> None:
        """Workers that have shown little themselves are taken to be like others of their kind."""
        columns = self._columns
        priors: dict[PoolKey, Rates] = {}
        for row in np.flatnonzero(columns.used & (columns.digest == digest)).tolist():
            key = self._alike(row)
            if key not in priors:
                priors[key] = self._rates.prior(key)
            self._take_rates(row, priors[key])
            self._stale.add(row)

    def _take_rates(self, row: int, prior: Rates) -> None:
        """The worker's rates, `prior` being its pool's."""
        columns = self._columns
        rates = self._rates.rates(columns.life.item(row), prior)
        columns.prefill_base_s[row] = rates.prefill_base_s
        columns.prefill_s_per_token[row] = rates.prefill_s_per_token
        columns.step_base_s[row] = rates.step_base_s
        columns.step_s_per_sequence[row] = rates.step_s_per_sequence
        columns.step_s_per_block[row] = rates.step_s_per_block
        columns.prefill_is_measured[row] = rates.prefill_is_measured
        columns.step_is_measured[row] = rates.step_is_measured
        derive_speed(columns, row)

    def _is_valid(self, booking: Booking) -> bool:
        return booking.row < len(self._columns) and self._columns.life[booking.row] == booking.life

    def _resize(self, num_rows: int) -> None:
        self._columns.resize(num_rows)
        kept = self._worker_ids[:num_rows]
        self._worker_ids = kept + [None] * (num_rows - len(kept))


def _block_bytes(group: common_pb2.GroupSpec) -> int:
    """Bytes of a block in one attention group's arena, 0 for an element type unknown here."""
    per_token = group.num_layers * group.num_kv_heads * (group.k_dim + group.v_dim)
    return per_token * group.block_size * _ITEM_BYTES.get(group.dtype, 0)
