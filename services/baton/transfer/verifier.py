"""Compares what lies in our arenas with what a source says it wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from baton.transfer.base import Arena
from baton.transfer.checksum import Algorithm, block_checksums
from baton.transfer.state import BlockCheck

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
                return f"block {block_id} of group {check.group} is not what was sent"
    return None


class Verifier:
    """Small handoffs are checked in place, big ones on a thread whose answer is posted."""

    def __init__(self, arenas: Sequence[Arena], post: Callable[[Callable[[], None]], None]) -> None:
        self._arenas = tuple(arenas)
        self._block_bytes = {arena.group: arena.block_bytes for arena in arenas}
        self._post = post
        self._pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="handoff-verify")

    def check(
        self,
        checks: Sequence[BlockCheck],
        algorithm: Algorithm,
        done: Callable[[str | None], None],
    ) -> None:
        """Call `done` with the problem, if there is one: now, or through `post`."""
        size = sum(len(c.checksums) * self._block_bytes[c.group] for c in checks)
        if size <= INLINE_BYTES:
            done(find_problem(self._arenas, checks, algorithm))
            return

        def work() -> None:
            try:
                problem = find_problem(self._arenas, checks, algorithm)
            except Exception as error:
                # Whatever went wrong, these blocks are not verified.
                problem = f"the check itself failed: {error}"
            self._post(lambda: done(problem))

        self._pool.submit(work)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
