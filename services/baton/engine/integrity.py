"""Does every block and slot belong to somebody? For tests, and for idle moments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from baton.core.handoff import Key
from baton.engine.block_manager import BlockManager
from baton.engine.fetches import Fetches
from baton.engine.migration import Migrations
from baton.engine.reservations import Reservations
from baton.engine.scheduler import Scheduler
from baton.engine.sequence import Sequence, Status, Submission
from baton.engine.tiering import Tiering


def check_integrity(
    blocks: BlockManager,
    scheduler: Scheduler,
    reservations: Reservations,
    migrations: Migrations,
    submissions: Mapping[Key, Submission],
    tiering: Tiering | None,
    fetches: Fetches,
) -> None:
    """Assert the engine's invariants between two steps."""
    sequences = [seq for sub in submissions.values() for seq in sub.sequences]
    for seq in sequences:
        _check_sequence(seq, blocks, scheduler)
    running = [seq for seq in sequences if seq.status is Status.RUNNING]
    assert len(running) == scheduler.num_running, "a sequence runs that belongs to nobody"
    num_waiting = sum(seq.status is Status.WAITING for seq in sequences)
    assert num_waiting == len(scheduler.waiting), "a sequence waits that belongs to nobody"

    # One that was stopped to be moved keeps its slot.
    stopped = [s for s in sequences if s.status is Status.HELD and s.submission.is_moving]
    slots = sum(seq.num_slots for seq in (*running, *stopped))
    slots += sum(reservation.num_slots for reservation in reservations.open.values())
    assert slots == scheduler.num_slots <= scheduler.max_sequences, "slots miscounted"
    charged = sum(submission.charged_blocks for submission in submissions.values())
    assert charged == scheduler.ungranted_blocks, "ungranted blocks miscounted"

    for group, pool in enumerate(blocks.pools):
        owners: Counter[int] = Counter()
        for seq in sequences:
            owners.update(seq.tables[group].tolist())
        for reservation in reservations.open.values():
            owners.update(reservation.groups[group].block_ids)
        owners.update(migrations.pinned(group))
        owners.update(fetches.lent(group))
        if tiering is not None:
            owners.update(tiering.owned(group))
        pool.check(owners, reservations.quarantined(group))
    if tiering is not None:
        tiering.check()


def _check_sequence(seq: Sequence, blocks: BlockManager, scheduler: Scheduler) -> None:
    name = f"sequence {seq.submission.key}[{seq.choices}]"
    assert seq.status is not Status.FINISHED, f"{name} is finished but not forgotten"
    assert (seq in scheduler.decoding or seq in scheduler.prefilling) == (
        seq.status is Status.RUNNING
    ), f"{name} is {seq.status} but on the wrong list"
    assert not seq.copies, f"{name} has a copy left over"
    assert seq.num_tokens == len(seq.tokens) == len(seq.submission.request.prompt) + len(seq.output)
    if seq.status is Status.WAITING:
        assert seq.num_computed == 0 and not any(len(table) for table in seq.tables), name
        return
    for group, (table, pool) in enumerate(zip(seq.tables, blocks.pools, strict=True)):
        size = pool.spec.block_size
        assert len(table) * size >= seq.num_computed, f"{name} has too few blocks"
        assert seq.num_registered[group] == seq.num_computed // size, f"{name}: unregistered block"
        for block, block_hash in zip(table.tolist(), seq.hashes[group], strict=False):
            if pool.cache.holds(block):
                assert pool.cache.hash_of(block) == block_hash, f"{name}: wrong KV in a block"
