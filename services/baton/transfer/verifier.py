"""Compares what lies in our arenas with what a source says it wrote, and decodes records."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from baton.core.kv import Arena
from baton.transfer.checksum import Algorithm, block_checksums, common_algorithm
from baton.transfer.codec import Codec
from baton.transfer.state import BlockCheck
from baton.transfer.wire_codec import decode_in_place, is_record

# Checked at once, in about 0.1 ms; more goes to the pool, for the loop must not wait.
INLINE_BYTES = 2**20
NUM_THREADS = 2


def find_problem(
    arenas: Sequence[Arena], checks: Sequence[BlockCheck], algorithm: Algorithm
) -> str | None:
    """The first block that does not hold what it should, in words; None when all do.

    A check without checksums passes: they are off.
    """
    by_group = {arena.group: arena for arena in arenas}
    for check in checks:
        if not check.checksums:
            continue
        found = block_checksums(by_group[check.group], check.block_ids, algorithm)
        for block_id, expected, actual in zip(check.block_ids, check.checksums, found, strict=True):
            if expected != actual:
                return _wrong(check.group, block_id)
    return None


def _wrong(group: int, block_id: int) -> str:
    return f"block {block_id} of group {group} is not what was sent"


class Check:
    """Blocks in host memory that may hold records: checked first, all of them, then decoded.

    Each checksum is of a record or of a plain block.
    """

    def __init__(
        self, arenas: Sequence[Arena], codecs: Sequence[Codec], checks: Sequence[BlockCheck]
    ) -> None:
        self._views = {arena.group: arena.view for arena in arenas}
        self._codecs = tuple(codecs)
        self._checks = tuple(checks)
        # Held while a block changes.
        self._lock = threading.Lock()
        self._stopped = False

    def run(self) -> str | None:
        """The first block that is wrong, in words; None when all are right and decoded."""
        records: list[tuple[int, int]] = []
        for check in self._checks:
            group, codec = check.group, self._codecs[check.group]
            for block_id, checksum in zip(check.block_ids, check.checksums, strict=True):
                encoded = is_record(codec, self._views[group][block_id], checksum)
                if encoded is None:
                    return _wrong(group, block_id)
                if encoded:
                    records.append((group, block_id))
        scratch = [np.empty(codec.record_bytes, np.uint8) for codec in self._codecs]
        for group, block_id in records:
            with self._lock:
                if self._stopped:
                    return "the check was stopped"
                decode_in_place(self._codecs[group], self._views[group][block_id], scratch[group])
        return None

    def stop(self) -> None:
        """No block changes after this. From any thread; waits for one block at most."""
        self._stopped = True
        # Who holds it has not seen that, and finishes its block.
        with self._lock:
            return


class Verifier:
    """Small handoffs are checked in place, others on a thread whose answer comes through `do`."""

    def __init__(
        self,
        arenas: Sequence[Arena],
        do: Callable[[Callable[[], None]], None],
        codecs: Sequence[Codec] = (),
    ) -> None:
        self._arenas = tuple(arenas)
        self._block_bytes = {arena.group: arena.block_bytes for arena in arenas}
        self._do = do
        self._codecs = tuple(codecs)
        self._pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="handoff-verify")

    def check(
        self,
        checks: Sequence[BlockCheck],
        theirs: Sequence[Arena],
        done: Callable[[str | None], None],
        *,
        is_encoded: bool = False,
    ) -> Check | None:
        """Call `done` with the problem, if there is one: now, or through `do`.

        `theirs` are the arenas of the peer that took the checksums. `is_encoded`: blocks may hold
        records; who frees them before `done` must stop the check.
        """
        if is_encoded:
            # Decoding a block takes longer than checking it, so the loop never waits for one.
            check = Check(self._arenas, self._codecs, checks)
            self._start(check.run, done)
            return check
        size = sum([len(c.checksums) * self._block_bytes[c.group] for c in checks])
        if not size:
            done(None)
            return None
        algorithm = common_algorithm(self._arenas, theirs)
        if size <= INLINE_BYTES:
            done(find_problem(self._arenas, checks, algorithm))
        else:
            self._start(lambda: find_problem(self._arenas, checks, algorithm), done)
        return None

    def _start(self, find: Callable[[], str | None], done: Callable[[str | None], None]) -> None:
        def work() -> None:
            try:
                problem = find()
            except Exception as error:
                # Whatever went wrong, these blocks are not verified.
                problem = f"the check itself failed: {error}"
            self._do(lambda: done(problem))

        self._pool.submit(work)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
