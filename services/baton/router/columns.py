"""The state of all workers in parallel arrays, so that a policy is a few vector operations."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from baton.v1 import common_pb2

Array = npt.NDArray[Any]
RowNumbers = npt.NDArray[np.intp]
# Index of columns: an array of rows, or a slice where they lie side by side (no copies then).
Rows = RowNumbers | slice

# Copies of some rows of all columns: booleans, and the rest as int64.
Snapshot = tuple[Array, Array]

LEAST_ROWS = 8


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
    # Interned names (`Pool.intern`), Role, and a hash of the worker's id.
    model: Array
    digest: Array
    revision: Array
    role: Array
    id_hash: Array
    # Capacity, from the lease; bytes of KV in a block, 0 when unknown.
    num_blocks: Array
    block_size: Array
    block_bytes: Array
    max_sequences: Array
    max_batch_tokens: Array
    # The newest load report; `cached_blocks` are among the free ones.
    queue_room: Array
    num_waiting: Array
    num_running: Array
    queued_prefill_tokens: Array
    free_blocks: Array
    cached_blocks: Array
    # This gateway's placements: sequences that have not ended. Those that the newest report does
    # not know of: submissions to the worker's waiting queue, their sequences, and prompt tokens to
    # be computed. Not begun: sequences whose KV comes from elsewhere; blocks; and, of those that it
    # does know of, prompt tokens that its caches will cover though it counts them as queued.
    inflight: Array
    unreported: Array
    unreported_sequences: Array
    unreported_tokens: Array
    awaiting_kv: Array
    booked_blocks: Array
    credited_tokens: Array
    # Blocks that the output of those that have not ended is expected to take in the end.
    expected_blocks: Array
    # Fitted to reports (`planner.rates`), its own or of others like it; without any, guessed.
    prefill_base_s: Array
    prefill_s_per_token: Array
    step_base_s: Array
    step_s_per_sequence: Array
    step_s_per_block: Array
    prefill_is_measured: Array
    step_is_measured: Array
    # Mean over its links to peers.
    link_bytes_per_s: Array
    # Made of the above (`router.derived`), so that a choice among many workers is few operations:
    # prompt tokens to be computed before those of a new request; the seconds that this takes, with
    # the overhead of the step that computes the new ones;
    # sequences, and blocks in use or soon to be; seconds of a decode step with all of them and one
    # sequence more; sequences that stand still while a prompt is computed, and by which share that
    # makes computing it longer, as each of its steps decodes them, too; the mean of their shares of
    # the batch and of the pool (in which cached blocks count a little); tokens whose KV can land
    # there soon; room for one more prompt in its queue, and what that adds to any score: 0, or inf
    # without room; the same, but inf as well while nobody knows how fast it computes.
    queued_tokens: Array
    queue_s: Array
    sequences: Array
    active_blocks: Array
    step_s: Array
    stalled: Array
    interleaved: Array
    occupancy: Array
    landing_tokens: Array
    has_room: Array
    barrier: Array
    unknown_barrier: Array
    # Seconds that a token in the pool adds to a decode step; to compute a block of a prompt; for a
    # token's KV, and a block's, to get there from a peer; how much faster a block comes from a peer
    # than it is computed, 0 when it is not, or unknown.
    step_s_per_token: Array
    block_compute_s: Array
    token_transfer_s: Array
    block_transfer_s: Array
    block_fetch_gain_s: Array
    # Number of the newest placement here, over all workers; 0 for none.
    placed_at: Array
    # Number of the worker among all that ever came: bookings remember theirs.
    life: Array

    # In two blocks, so that rows can be copied out at once: booleans, and items of eight bytes.
    _NAMES: Mapping[type[np.generic], tuple[str, ...]] = {
        np.bool_: (
            "used",
            "up",
            "draining",
            "short_of_blocks",
            "prefill_is_measured",
            "step_is_measured",
            "has_room",
        ),
        np.uint64: ("id_hash",),
        np.int64: (
            "model",
            "digest",
            "revision",
            "role",
            "num_blocks",
            "block_size",
            "block_bytes",
            "max_sequences",
            "max_batch_tokens",
            "queue_room",
            "num_waiting",
            "num_running",
            "queued_prefill_tokens",
            "free_blocks",
            "cached_blocks",
            "inflight",
            "unreported",
            "unreported_sequences",
            "unreported_tokens",
            "awaiting_kv",
            "booked_blocks",
            "credited_tokens",
            "expected_blocks",
            "queued_tokens",
            "sequences",
            "active_blocks",
            "landing_tokens",
            "stalled",
            "placed_at",
            "life",
        ),
        np.float64: (
            "prefill_base_s",
            "prefill_s_per_token",
            "step_base_s",
            "step_s_per_sequence",
            "step_s_per_block",
            "link_bytes_per_s",
            "queue_s",
            "step_s",
            "interleaved",
            "occupancy",
            "barrier",
            "unknown_barrier",
            "step_s_per_token",
            "block_compute_s",
            "token_transfer_s",
            "block_transfer_s",
            "block_fetch_gain_s",
        ),
    }

    def __init__(self, num_rows: int = LEAST_ROWS) -> None:
        num_booleans = len(self._NAMES[np.bool_])
        num_others = sum(map(len, self._NAMES.values())) - num_booleans
        self._set(
            (np.zeros((num_booleans, num_rows), np.bool_), np.zeros((num_others, num_rows), "i8"))
        )

    def _set(self, blocks: Snapshot) -> None:
        self._blocks = booleans, others = blocks
        first = 0
        for kind, names in self._NAMES.items():
            if kind is np.bool_:
                columns = booleans
            else:
                assert np.dtype(kind).itemsize == others.itemsize, "one item for each row"
                columns = others[first : first + len(names)].view(kind)
                first += len(names)
            # Iterating over a block gives its columns.
            self.__dict__.update(zip(names, columns, strict=True))

    def __len__(self) -> int:
        return len(self.used)

    def resize(self, num_rows: int) -> None:
        """Keep the first rows, add zero ones."""
        kept, old = min(num_rows, len(self)), self._blocks
        booleans, others = (np.zeros((len(block), num_rows), block.dtype) for block in old)
        self._set((booleans, others))
        for block, before in zip(self._blocks, old, strict=True):
            block[:, :kept] = before[:, :kept]

    def clear(self, row: int) -> None:
        """Zero a row."""
        for block in self._blocks:
            block[:, row] = 0

    def snapshot(self, rows: RowNumbers) -> Snapshot:
        """Some rows as they are now."""
        booleans, others = self._blocks
        return booleans.take(rows, axis=1), others.take(rows, axis=1)

    @classmethod
    def of(cls, snapshot: Snapshot, rows: slice) -> Columns:
        """Columns of some of a snapshot's rows, in their order."""
        booleans, others = snapshot
        columns = cls.__new__(cls)
        columns._set((booleans[:, rows], others[:, rows]))
        return columns
