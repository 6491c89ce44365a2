"""One thread per peer that writes blocks with NIXL.

`transfer()` blocks while UCX copies, and a write to a frozen peer stays unfinished: on a thread of
its own neither holds up the other peers.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from baton.core.errors import HandoffError
from baton.transfer.base import Arena, BlockWrite, LinkInfo, WriteResult
from baton.transfer.checksum import Algorithm, written_checksums
from baton.transfer.nixl_peer import NixlPeer
from baton.transfer.nixl_records import RecordWriter
from baton.transfer.preflight import UNKNOWN, WRITE_WAIT_S, measure
from baton.transfer.writes import ArrayWrite, WriteChecker

log = logging.getLogger(__name__)

Done = Callable[[WriteResult], None]

MAX_QUEUED_WRITES = 1024
# One NIXL request carries this much, so that deadlines are looked at in between ...
PIECE_BYTES = 16 * 2**20
# ... and so many are under way, so that the wire is not idle in between.
MAX_PIECES = 2
# Polling starts tight, for writes take from 20 us on, and backs off to this.
MAX_POLL_S = 0.001
# How often writes that were given up are looked at.
STALE_POLL_S = 0.05
# A link is measured when nothing was asked of it for so long.
PREFLIGHT_IDLE_S = 0.02


@dataclass(frozen=True, slots=True)
class _Job:
    writes: tuple[ArrayWrite, ...]
    done: Done
    deadline: float


class NixlSender(threading.Thread):
    """Writes to one life of one peer's agents, in the order of `put`.

    `agent` belongs to the transport, `peer` to this thread.
    """

    def __init__(
        self,
        name: str,
        agent: Any,
        arenas: dict[int, Arena],
        peer: NixlPeer,
        checker: WriteChecker,
        records: RecordWriter,
        algorithm: Algorithm | None,
        measured: Callable[[LinkInfo], None] | None,
    ) -> None:
        super().__init__(name=f"nixl-to-{name}", daemon=True)
        self._agent = agent
        self._arenas = arenas
        self._peer = peer
        self._checker = checker
        self._records = records
        self._algorithm = algorithm
        # None once it has been told.
        self._measured = measured
        self._jobs: queue.Queue[_Job | None] = queue.Queue(MAX_QUEUED_WRITES)
        # Writes that were given up and may still land, with whom to tell once they cannot.
        self._stale: list[tuple[list[Any], Done]] = []
        self._look_at = 0.0
        self._stopping = False

    # --- any thread ---

    def put(self, writes: Sequence[BlockWrite], done: Done, timeout_s: float) -> None:
        """Queue a write. Raises HandoffError when the queue is full or a block does not exist."""
        job = _Job(self._checker.check(writes), done, time.monotonic() + timeout_s)
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise HandoffError(f"{MAX_QUEUED_WRITES} writes are waiting for this peer") from None

    def stop(self) -> None:
        """Fail what is queued and end the thread; what is being written ends first."""
        self._stopping = True
        try:
            self._jobs.put_nowait(None)
        except queue.Full:
            # The thread sees the flag at its next job.
            return

    # --- the thread ---

    def run(self) -> None:
        try:
            # Connecting takes tens of milliseconds: now, while the prompt is being computed.
            self._try_connect()
            while not self._stopping:
                idle_s = PREFLIGHT_IDLE_S if self._measured else STALE_POLL_S
                try:
                    job = self._jobs.get(timeout=idle_s if self._measured or self._stale else None)
                except queue.Empty:
                    self._look_at_stale()
                    self._preflight()
                    continue
                if job is None:
                    break
                self._answer(job)
                if self._stale and time.monotonic() >= self._look_at:
                    # Under load the queue is never empty for long.
                    self._look_at_stale()
        finally:
            self._leave()

    def _answer(self, job: _Job) -> None:
        """Write, and say what came of it, whatever goes wrong: the thread must go on."""
        try:
            result = self._do(job)
        except Exception as error:
            log.exception("%s: a write failed half way", self.name)
            self._peer.forget()
            result = WriteResult((), 0, error=_describe(error), quiesced=False)
        job.done(result)

    def _try_connect(self) -> str | None:
        """Load the peer's agents unless they are; what went wrong, if anything."""
        if self._peer.is_loaded:
            return None
        try:
            self._peer.load()
        except Exception as error:
            # The bindings raise one class per status; all mean that the peer cannot be written to.
            log.warning("%s: connecting", self.name, exc_info=True)
            self._peer.forget()
            return _describe(error)
        return None

    def _preflight(self) -> None:
        """Measure the link while nothing waits for it."""
        if self._measured is None or self._try_connect() is not None:
            # What cannot be reached is not asked for again until there is something to send.
            self._measured = None
            return
        try:
            rate = measure(self._write_scratch, lambda: not self._jobs.empty())
            if rate is None:
                return
            link = LinkInfo(self._peer.fabric, rate)
        except Exception:
            log.debug("%s: preflight", self.name, exc_info=True)
            self._peer.forget()
            link = LinkInfo(UNKNOWN, 0.0)
        tell, self._measured = self._measured, None
        tell(link)

    def _write_scratch(self) -> bool:
        handle = self._peer.probe()
        state: str = self._agent.transfer(handle)
        if state == "PROC":
            state = self._wait(handle, time.monotonic() + WRITE_WAIT_S)
        if state == "PROC":
            # A frozen peer: see `_settle`.
            self._stale.append(([handle], lambda result: None))
        return state == "DONE"

    def _do(self, job: _Job) -> WriteResult:
        problem = "the peer was disconnected" if self._stopping else self._try_connect()
        if problem is not None:
            return WriteResult((), 0, error=problem)
        flying: deque[Any] = deque()
        checksums: list[tuple[int, ...]] = []
        num_bytes = 0
        for write in job.writes:
            sums: list[int] = []
            if write.codec:
                written = self._do_records(flying, job, write, sums)
                if isinstance(written, WriteResult):
                    return written
                num_bytes += written
                checksums.append(tuple(sums))
                continue
            try:
                part_bytes = self._peer.part_bytes(write)
            except Exception as error:
                log.warning("%s: preparing a write", self.name, exc_info=True)
                return self._refuse(flying, job, _describe(error))
            step = max(1, PIECE_BYTES // max(1, part_bytes))
            for first in range(0, len(write.local), step):
                failed = self._settle(flying, job, MAX_PIECES - 1)
                make = partial(self._peer.requests, write, first, first + step)
                failed = failed or self._post(flying, job, make)
                if failed is not None:
                    return failed
                if self._algorithm is not None and write.is_last_part:
                    # While it is under way.
                    ids, runs = write.local[first : first + step], self._peer.runs(write.group)
                    arena = self._arenas[write.group]
                    sums += written_checksums(arena, ids, self._algorithm, runs)
            num_bytes += part_bytes * len(write.local)
            checksums.append(tuple(sums))
        failed = self._settle(flying, job, 0)
        return failed or WriteResult(tuple(checksums) if self._algorithm else (), num_bytes)

    def _do_records(
        self, flying: deque[Any], job: _Job, write: ArrayWrite, sums: list[int]
    ) -> WriteResult | int:
        """Encode blocks and start writing them, adding to `sums`; bytes, or what to report."""
        num_bytes = 0

        def make(first: int) -> list[Any]:
            nonlocal num_bytes
            piece = self._records.encode(self._peer, write, first, first + step)
            sums.extend(piece.checksums)
            num_bytes += piece.num_bytes
            return piece.requests

        try:
            step = self._records.piece_blocks()
        except Exception as error:
            log.warning("%s: preparing a write", self.name, exc_info=True)
            return self._refuse(flying, job, _describe(error))
        for first in range(0, len(write.local), step):
            # So the staging that this piece takes is no longer read.
            failed = self._settle(flying, job, MAX_PIECES - 1)
            failed = failed or self._post(flying, job, partial(make, first))
            if failed is not None:
                return failed
        return num_bytes

    def _post(
        self, flying: deque[Any], job: _Job, make: Callable[[], list[Any]]
    ) -> WriteResult | None:
        """Start the requests of one piece; what to report when that fails."""
        if time.monotonic() >= job.deadline:
            return self._refuse(flying, job, "timed out in the queue")
        try:
            handles = make()
        except Exception as error:
            log.warning("%s: preparing a write", self.name, exc_info=True)
            refused = self._refuse(flying, job, _describe(error))
            self._peer.forget()
            return refused
        try:
            for handle in handles:
                if self._agent.transfer(handle) != "DONE":
                    flying.append(handle)
        except Exception as error:
            # Part of it was posted, and what the network holds may still be delivered.
            log.warning("%s: writing", self.name, exc_info=True)
            self._peer.forget()
            return WriteResult((), 0, error=_describe(error), quiesced=False)
        return None

    def _refuse(self, flying: deque[Any], job: _Job, reason: str) -> WriteResult:
        """The next piece does not start; it has failed once those before it have ended."""
        return self._settle(flying, job, 0) or WriteResult((), 0, error=reason)

    def _settle(self, flying: deque[Any], job: _Job, most: int) -> WriteResult | None:
        """Wait until at most `most` requests are under way; what to report when one fails."""
        while len(flying) > most:
            try:
                state = self._wait(flying[0], job.deadline)
            except Exception as error:
                log.warning("%s: waiting for a write", self.name, exc_info=True)
                self._peer.forget()
                return WriteResult((), 0, error=_describe(error), quiesced=False)
            if state == "PROC":
                # Releasing the handle would look like an abort, but bytes that UCX has queued land
                # all the same when a frozen peer wakes up. So it is kept, and asked again.
                self._stale.append((list(flying), job.done))
                return WriteResult((), 0, error="timed out", quiesced=False)
            if state != "DONE":
                self._peer.forget()
                return WriteResult((), 0, error="the transfer failed", quiesced=False)
            flying.popleft()
        return None

    def _wait(self, handle: Any, deadline: float) -> str:
        pause = 0.0
        state: str = self._agent.check_xfer_state(handle)
        while state == "PROC" and time.monotonic() < deadline and not self._stopping:
            time.sleep(pause)
            pause = min(MAX_POLL_S, pause + 0.00002)
            state = self._agent.check_xfer_state(handle)
        return state

    def _look_at_stale(self) -> None:
        """Tell whose writes, given up before, have come to their end after all."""
        self._look_at = time.monotonic() + STALE_POLL_S
        waiting, self._stale = self._stale, []
        for handles, done in waiting:
            try:
                states = [self._agent.check_xfer_state(handle) for handle in handles]
            except Exception:
                # Never proven to have ended: its blocks wait for another proof.
                log.debug("%s: looking at a stale write", self.name, exc_info=True)
                continue
            if all(state == "DONE" for state in states):
                done(WriteResult((), 0, error="timed out, then landed"))
            elif all(state in ("DONE", "PROC") for state in states):
                self._stale.append((handles, done))

    def _leave(self) -> None:
        self._stale.clear()
        self._peer.forget()
        self._records.leave()
        # What keeps the agent alive keeps its connections open.
        del self._peer, self._records
        self._agent = None
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if job is not None:
                job.done(WriteResult((), 0, error="the peer was disconnected"))


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
