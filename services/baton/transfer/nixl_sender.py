"""One thread per peer that writes blocks with NIXL.

`transfer()` blocks while UCX copies, and a write to a frozen peer stays unfinished: on a thread of
its own neither holds up the other peers.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from baton.core.errors import HandoffError
from baton.transfer.base import Arena, BlockWrite, WriteResult
from baton.transfer.checksum import Algorithm, block_checksums
from baton.transfer.layout import block_descriptors

log = logging.getLogger(__name__)

Done = Callable[[WriteResult], None]

MAX_QUEUED_WRITES = 1024
# One NIXL request carries this much, so that deadlines are looked at in between.
PIECE_BYTES = 16 * 2**20
# Polling starts tight, for writes take from 20 us on, and backs off to this.
MAX_POLL_S = 0.001
# How often writes that were given up are looked at.
STALE_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class _Job:
    writes: tuple[BlockWrite, ...]
    done: Done
    deadline: float


class NixlSender(threading.Thread):
    """Writes to one life of one peer's agent, in the order of `put`.

    `agent` and `local` (a prepared list of all our blocks per group) belong to the transport.
    """

    def __init__(
        self,
        agent: Any,
        local: dict[int, Any],
        local_arenas: dict[int, Arena],
        peer: str,
        metadata: bytes,
        remote_arenas: Sequence[Arena],
        algorithm: Algorithm | None,
    ) -> None:
        super().__init__(name=f"nixl-to-{peer}", daemon=True)
        self._agent = agent
        self._local = local
        self._local_arenas = local_arenas
        self._metadata = metadata
        self._remote_arenas = {arena.group: arena for arena in remote_arenas}
        self._algorithm = algorithm
        self._jobs: queue.Queue[_Job | None] = queue.Queue(MAX_QUEUED_WRITES)
        self._remote_name: Any = None
        self._remote: dict[int, Any] = {}
        # Writes that were given up and may still land, with whom to tell once they cannot.
        self._stale: list[tuple[Any, Done]] = []
        self._stopping = False

    # --- any thread ---

    def put(self, writes: Sequence[BlockWrite], done: Done, timeout_s: float) -> None:
        """Queue a write. Raises HandoffError when the queue is full or a block does not exist."""
        for write in writes:
            self._check(write)
        job = _Job(tuple(writes), done, time.monotonic() + timeout_s)
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

    def _check(self, write: BlockWrite) -> None:
        for side, arenas, ids in (
            ("here", self._local_arenas, write.local),
            ("there", self._remote_arenas, write.remote),
        ):
            arena = arenas.get(write.group)
            if arena is None or not all(0 <= i < arena.num_blocks for i in ids):
                raise HandoffError(f"group {write.group} has no such block {side}")

    # --- the thread ---

    def run(self) -> None:
        try:
            # Connecting takes tens of milliseconds: now, while the prompt is being computed.
            self._try_connect()
            while not self._stopping:
                try:
                    job = self._jobs.get(timeout=STALE_POLL_S if self._stale else None)
                except queue.Empty:
                    self._look_at_stale()
                    continue
                if job is None:
                    break
                self._do(job)
        finally:
            self._leave()

    def _try_connect(self) -> str | None:
        """Load the peer's agent unless it is; what went wrong, if anything."""
        if self._remote_name is not None:
            return None
        try:
            self._remote_name = self._agent.add_remote_agent(self._metadata)
            self._remote = {
                group: self._agent.prep_xfer_dlist(
                    self._remote_name, block_descriptors(arena), arena.memory
                )
                for group, arena in self._remote_arenas.items()
            }
            self._agent.make_connection(self._remote_name)
        except Exception as error:
            # The bindings raise one class per status; all mean that the peer cannot be written to.
            self._forget_peer()
            return _describe(error)
        return None

    def _forget_peer(self) -> None:
        """Drop the connection, so that the next write makes a new one."""
        self._remote.clear()
        name, self._remote_name = self._remote_name, None
        if name is not None:
            try:
                self._agent.remove_remote_agent(name)
            except Exception as error:
                log.debug("removing remote agent: %s", _describe(error))

    def _do(self, job: _Job) -> None:
        problem = "the peer was disconnected" if self._stopping else self._try_connect()
        if problem is not None:
            job.done(WriteResult((), 0, error=problem))
            return
        checksums: list[tuple[int, ...]] = []
        num_bytes = 0
        for write in job.writes:
            arena = self._local_arenas[write.group]
            step = max(1, PIECE_BYTES // arena.block_bytes)
            sums: list[int] = []
            for first in range(0, len(write.local), step):
                local, remote = (
                    write.local[first : first + step],
                    write.remote[first : first + step],
                )
                if self._algorithm is not None:
                    sums += block_checksums(arena, local, self._algorithm)
                failed = self._write_piece(write.group, local, remote, job)
                if failed is not None:
                    job.done(failed)
                    return
                num_bytes += len(local) * arena.block_bytes
            checksums.append(tuple(sums))
        done_sums = tuple(checksums) if self._algorithm is not None else ()
        job.done(WriteResult(done_sums, num_bytes))

    def _write_piece(
        self, group: int, local: tuple[int, ...], remote: tuple[int, ...], job: _Job
    ) -> WriteResult | None:
        """None when it is done; else what to report."""
        if time.monotonic() >= job.deadline:
            return WriteResult((), 0, error="timed out in the queue")
        try:
            handle = self._agent.make_prepped_xfer(
                "WRITE",
                self._local[group],
                np.asarray(local, dtype=np.int32),
                self._remote[group],
                np.asarray(remote, dtype=np.int32),
            )
        except Exception as error:
            self._forget_peer()
            return WriteResult((), 0, error=_describe(error))
        try:
            state = self._agent.transfer(handle)
            state = self._wait(handle, state, job.deadline)
        except Exception as error:
            # Part of it was posted, and what the network holds may still be delivered.
            self._forget_peer()
            return WriteResult((), 0, error=_describe(error), quiesced=False)
        if state == "DONE":
            return None
        if state == "PROC":
            # Releasing the handle would look like an abort, but bytes that UCX has queued land
            # all the same when a frozen peer wakes up. So it is kept, and asked again.
            self._stale.append((handle, job.done))
            return WriteResult((), 0, error="timed out", quiesced=False)
        self._forget_peer()
        return WriteResult((), 0, error="the transfer failed", quiesced=False)

    def _wait(self, handle: Any, state: str, deadline: float) -> str:
        pause = 0.0
        while state == "PROC" and time.monotonic() < deadline and not self._stopping:
            time.sleep(pause)
            pause = min(MAX_POLL_S, pause + 0.00002)
            state = self._agent.check_xfer_state(handle)
        return state

    def _look_at_stale(self) -> None:
        """Tell whose writes, given up before, have come to their end after all."""
        waiting, self._stale = self._stale, []
        for handle, done in waiting:
            try:
                state = self._agent.check_xfer_state(handle)
            except Exception as error:
                # Never proven to have ended: its blocks wait for another proof.
                log.debug("stale write: %s", _describe(error))
                continue
            if state == "DONE":
                done(WriteResult((), 0, error="timed out, then landed"))
            elif state == "PROC":
                self._stale.append((handle, done))

    def _leave(self) -> None:
        self._stale.clear()
        self._forget_peer()
        # What keeps the agent alive keeps its connections open.
        self._local = {}
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
