"""Live workers in columns: who they are, what they report, what this gateway has placed on them.

One row per worker; a row's index is stable while its worker lives and is reused afterwards. Load
reports lag behind, so placements count from the moment of dispatch: as `inflight` until they end,
in `unreported` until the next report, in `booked_blocks` until the worker has begun.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from baton.v1 import common_pb2, session_pb2

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.intp]

_LEAST_ROWS = 8


class Role(IntEnum):
    """Values of the wire's WorkerRole."""

    PREFILL = common_pb2.WORKER_ROLE_PREFILL
    DECODE = common_pb2.WORKER_ROLE_DECODE
    ANY = common_pb2.WORKER_ROLE_ANY


class Columns:
    """Parallel arrays `[num_rows]`. Unused rows are all zero."""

    # A worker is here; its stream is alive; it takes nothing new; what runs there lacks blocks.
    used: Array
    up: Array
    draining: Array
    short_of_blocks: Array
    # Interned names (`Pool.intern`), and Role.
    model: Array
    digest: Array
    role: Array
    # Capacity, from the lease.
    num_blocks: Array
    block_size: Array
    max_sequences: Array
    max_batch_tokens: Array
    # The newest load report.
    queue_room: Array
    num_waiting: Array
    num_running: Array
    queued_prefill_tokens: Array
    free_blocks: Array
    # This gateway's placements: sequences that have not ended; submissions to the worker's waiting
    # queue and their prompt tokens since the newest report; blocks of those that have not begun.
    inflight: Array
    unreported: Array
    unreported_tokens: Array
    booked_blocks: Array
    # Number of the newest placement here, over all workers; 0 for none.
    placed_at: Array
    # Number of reports, and of the worker among all that ever came: bookings remember theirs.
    reports: Array
    life: Array

    _BOOL = ("used", "up", "draining", "short_of_blocks")
    _INT = (
        "model",
        "digest",
        "role",
        "num_blocks",
        "block_size",
        "max_sequences",
        "max_batch_tokens",
        "queue_room",
        "num_waiting",
        "num_running",
        "queued_prefill_tokens",
        "free_blocks",
        "inflight",
        "unreported",
        "unreported_tokens",
        "booked_blocks",
        "placed_at",
        "reports",
        "life",
    )

    def __init__(self, num_rows: int = _LEAST_ROWS) -> None:
        for name in self._BOOL:
            setattr(self, name, np.zeros(num_rows, np.bool_))
        for name in self._INT:
            setattr(self, name, np.zeros(num_rows, np.int64))

    def __len__(self) -> int:
        return len(self.used)

    def resize(self, num_rows: int) -> None:
        """Keep the first rows, add zero ones."""
        kept = min(num_rows, len(self))
        for name in (*self._BOOL, *self._INT):
            old: Array = getattr(self, name)
            new = np.zeros(num_rows, old.dtype)
            new[:kept] = old[:kept]
            setattr(self, name, new)

    def clear(self, row: int) -> None:
        """Zero a row."""
        for name in (*self._BOOL, *self._INT):
            getattr(self, name)[row] = 0


@dataclass(slots=True)
class Booking:
    """A placement on one worker. `sequences`, prompt `tokens` that it computes, KV `blocks`."""

    row: int
    life: int
    report: int
    sequences: int
    tokens: int
    blocks: int
    begun: bool = False
    ended: bool = False


class Pool:
    """Adds, removes and updates rows; see the module."""

    def __init__(self) -> None:
        self.columns = Columns()
        self._worker_ids: list[str | None] = [None] * len(self.columns)
        self._names: dict[str, int] = {}
        self._num_placed = 0
        self._num_lives = 0

    def __len__(self) -> int:
        return int(np.count_nonzero(self.columns.used))

    def intern(self, name: str) -> int:
        """A number for a model's name or a digest."""
        return self._names.setdefault(name, len(self._names))

    def worker_id(self, row: int) -> str:
        """Whose row it is. Raises KeyError for an unused one."""
        worker_id = self._worker_ids[row]
        if worker_id is None:
            raise KeyError(row)
        return worker_id

    def add(self, lease: common_pb2.WorkerLease) -> int:
        """Take a worker in, down until `set_up`; returns its row."""
        columns = self.columns
        free = np.flatnonzero(~columns.used)
        if not len(free):
            row = len(columns)
            self._resize(2 * row)
            columns = self.columns
        else:
            row = int(free[0])
        self._num_lives += 1
        columns.used[row] = True
        columns.life[row] = self._num_lives
        self._worker_ids[row] = lease.worker.worker_id
        self.update(row, lease)
        # Until its first report, a worker counts as idle.
        columns.queue_room[row] = max(1, lease.capacity.max_sequences)
        columns.free_blocks[row] = lease.capacity.num_blocks
        return row

    def update(self, row: int, lease: common_pb2.WorkerLease) -> None:
        """Take what a lease says; a role may change while the worker lives."""
        columns = self.columns
        columns.model[row] = self.intern(lease.model)
        columns.digest[row] = self.intern(lease.digest)
        columns.role[row] = lease.role
        columns.num_blocks[row] = lease.capacity.num_blocks
        columns.block_size[row] = max(1, lease.capacity.block_size)
        columns.max_sequences[row] = max(1, lease.capacity.max_sequences)
        columns.max_batch_tokens[row] = max(1, lease.capacity.max_batch_tokens)

    def remove(self, row: int) -> None:
        """Let a worker go. Bookings that it still had become void."""
        columns = self.columns
        columns.clear(row)
        self._worker_ids[row] = None
        used = np.flatnonzero(columns.used)
        needed = max(_LEAST_ROWS, int(used[-1]) + 1 if len(used) else 0)
        # Shrink late, so that a worker that comes and goes costs no copies.
        if needed * 4 <= len(columns):
            self._resize(needed * 2)

    def set_up(self, row: int, up: bool) -> None:
        """Whether the worker's stream is alive: nothing is placed where it is not."""
        self.columns.up[row] = up

    def report(self, row: int, load: session_pb2.Load) -> None:
        """Take a load report."""
        columns = self.columns
        columns.queue_room[row] = load.queue_room
        columns.num_waiting[row] = load.num_waiting
        columns.num_running[row] = load.num_running
        columns.queued_prefill_tokens[row] = load.queued_prefill_tokens
        columns.free_blocks[row] = load.free_blocks
        columns.draining[row] = load.draining
        columns.short_of_blocks[row] = load.short_of_blocks
        columns.unreported[row] = 0
        columns.unreported_tokens[row] = 0
        columns.reports[row] += 1

    def book(self, row: int, *, sequences: int, tokens: int, blocks: int) -> Booking:
        """Count a placement; `tokens` is 0 for one that waits for KV from elsewhere."""
        columns = self.columns
        self._num_placed += 1
        columns.placed_at[row] = self._num_placed
        columns.inflight[row] += sequences
        columns.booked_blocks[row] += blocks
        if tokens:
            columns.unreported[row] += 1
            columns.unreported_tokens[row] += tokens
        return Booking(
            row, int(columns.life[row]), int(columns.reports[row]), sequences, tokens, blocks
        )

    def begin(self, booking: Booking) -> None:
        """The worker has given it blocks: its reports show them from here on. Idempotent."""
        if booking.begun or booking.ended or not self._is_valid(booking):
            return
        booking.begun = True
        self.columns.booked_blocks[booking.row] -= booking.blocks

    def end(self, booking: Booking) -> None:
        """The placement is over, or its worker is gone. Idempotent."""
        if booking.ended:
            return
        if self._is_valid(booking):
            columns, row = self.columns, booking.row
            columns.inflight[row] -= booking.sequences
            if not booking.begun:
                columns.booked_blocks[row] -= booking.blocks
            if booking.tokens and columns.reports[row] == booking.report:
                columns.unreported[row] -= 1
                columns.unreported_tokens[row] -= booking.tokens
        booking.ended = True

    def candidates(self, model: str) -> Rows:
        """Rows of workers that take new requests for a model."""
        columns = self.columns
        number = self._names.get(model, -1)
        return np.flatnonzero(
            columns.used & columns.up & ~columns.draining & (columns.model == number)
        )

    def _is_valid(self, booking: Booking) -> bool:
        return booking.row < len(self.columns) and self.columns.life[booking.row] == booking.life

    def _resize(self, num_rows: int) -> None:
        self.columns.resize(num_rows)
        kept = self._worker_ids[:num_rows]
        self._worker_ids = kept + [None] * (num_rows - len(kept))
