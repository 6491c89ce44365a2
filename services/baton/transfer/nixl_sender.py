"""Writes blocks with NIXL, see `sender`."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from baton.core.kv import Arena
from baton.transfer.base import LinkInfo, WriteResult
from baton.transfer.checksum import Algorithm, written_checksums
from baton.transfer.nixl_peer import NixlPeer
from baton.transfer.nixl_records import RecordWriter
from baton.transfer.preflight import WRITE_WAIT_S
from baton.transfer.sender import Done, Job, Sender
from baton.transfer.writes import ArrayWrite, WriteChecker

log = logging.getLogger(__name__)

# One NIXL request carries this much, so that deadlines are looked at in between ...
PIECE_BYTES = 64 * 2**20
# ... and so many are under way, so that the wire is not idle in between.
MAX_PIECES = 2
# Nobody else drives the write, so polling pauses for this share of the time that it took so far ...
PAUSE_SHARE = 1 / 64
# ... and no longer than this, within which a fast link empties what the kernel holds for it.
MAX_POLL_S = 0.001
# Of what is under way so much is summed up, in a fraction of a millisecond, between two polls.
SUM_BYTES = 4 * 2**20


class NixlSender(Sender):
    """`agent` belongs to the transport, `peer` to this thread."""

    stale_poll_s = 0.05

    def __init__(
        self,
        name: str,
        agent: Any,
        arenas: Mapping[int, Arena],
        peer: NixlPeer,
        checker: WriteChecker,
        records: RecordWriter,
        algorithm: Algorithm | None,
        measured: Callable[[LinkInfo], None] | None,
    ) -> None:
        super().__init__(f"nixl-to-{name}", checker, measured)
        self._agent = agent
        self._arenas = arenas
        self._peer = peer
        self._records = records
        self._algorithm = algorithm
        # Writes that were given up and may still land, with whom to tell once they cannot.
        self._stale: list[tuple[list[Any], Done]] = []
        self._look_at = 0.0

    def _try_connect(self, wait_s: float) -> str | None:
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

    def _disconnect(self) -> None:
        self._peer.forget()

    def _in_doubt(self, job: Job, error: Exception) -> WriteResult:
        self._peer.forget()
        return WriteResult((), 0, error=_describe(error), quiesced=False)

    def _fabric(self) -> str:
        return self._peer.fabric

    def _write_scratch(self) -> bool:
        handle = self._peer.probe()
        state: str = self._agent.transfer(handle)
        if state == "PROC":
            state = self._wait(handle, time.monotonic() + WRITE_WAIT_S)
        if state == "PROC":
            # A frozen peer: see `_settle`.
            self._stale.append(([handle], lambda result: None))
        return state == "DONE"

    def _write(self, job: Job) -> WriteResult:
        if self._stale and time.monotonic() >= self._look_at:
            # Under load the queue is never empty for long.
            self._look_at_stale()
        flying: deque[Any] = deque()
        checksums: list[tuple[int, ...]] = []
        num_bytes = 0
        for write in job.writes:
            sums: list[int] = []
            do = self._do_records if write.codec else self._do_blocks
            written = do(flying, job, write, sums)
            if isinstance(written, WriteResult):
                return written
            num_bytes += written
            checksums.append(tuple(sums))
        failed = self._settle(flying, job, 0)
        return failed or WriteResult(tuple(checksums) if self._algorithm else (), num_bytes)

    def _do_blocks(
        self, flying: deque[Any], job: Job, write: ArrayWrite, sums: list[int]
    ) -> WriteResult | int:
        """Start writing blocks as they are, adding to `sums`; bytes, or what to report."""
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
                arena, runs = self._arenas[write.group], self._peer.runs(write.group)
                ids = write.local[first : first + step]
                stride = max(1, SUM_BYTES // arena.block_bytes)
                for at in range(0, len(ids), stride):
                    some = ids[at : at + stride]
                    sums += written_checksums(arena, some, self._algorithm, runs)
                    self._drive(flying)
        return part_bytes * len(write.local)

    def _do_records(
        self, flying: deque[Any], job: Job, write: ArrayWrite, sums: list[int]
    ) -> WriteResult | int:
        """Encode blocks and start writing them, adding to `sums`; bytes, or what to report."""
        num_bytes = 0

        def make(first: int) -> list[Any]:
            nonlocal num_bytes
            drive = partial(self._drive, flying)
            piece = self._records.encode(self._peer, write, first, first + step, drive)
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
        self, flying: deque[Any], job: Job, make: Callable[[], list[Any]]
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

    def _refuse(self, flying: deque[Any], job: Job, reason: str) -> WriteResult:
        """The next piece does not start; it has failed once those before it have ended."""
        return self._settle(flying, job, 0) or WriteResult((), 0, error=reason)

    def _settle(self, flying: deque[Any], job: Job, most: int) -> WriteResult | None:
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
        began = time.monotonic()
        state: str = self._agent.check_xfer_state(handle)
        while state == "PROC" and (now := time.monotonic()) < deadline and not self._stopping:
            time.sleep(min(MAX_POLL_S, (now - began) * PAUSE_SHARE))
            state = self._agent.check_xfer_state(handle)
        return state

    def _drive(self, flying: deque[Any]) -> None:
        """Let what is under way go on, while this thread has something else to do."""
        if flying:
            # Whatever this says, and how it failed, is asked for again.
            with contextlib.suppress(Exception):
                self._agent.check_xfer_state(flying[-1])

    @property
    def _has_stale(self) -> bool:
        return bool(self._stale)

    def _look_at_stale(self) -> None:
        self._look_at = time.monotonic() + self.stale_poll_s
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


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
