"""The source's side of `dist`: a thread per peer sends pieces and hears what became of them."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from baton.core.errors import HandoffError
from baton.transfer.base import Arena, BlockWrite, LinkInfo, PeerShard, WriteResult
from baton.transfer.block_copy import gather
from baton.transfer.checksum import Algorithm, Run, written_checksums
from baton.transfer.dist_channel import (
    LANDED,
    SCRATCH_GROUP,
    Channel,
    Dial,
    unpack,
)
from baton.transfer.preflight import SCRATCH_BYTES, TCP, UNKNOWN, WRITE_WAIT_S, measure
from baton.transfer.relayout import checksum_runs, group_plan
from baton.transfer.writes import ArrayWrite, Ids, WriteChecker

log = logging.getLogger(__name__)

Done = Callable[[WriteResult], None]

MAX_QUEUED_WRITES = 1024
PIECE_BYTES = 16 * 2**20
# A link is measured when nothing was asked of it for so long.
PREFLIGHT_IDLE_S = 0.02
# How often a new channel is tried, which proves that nothing of the old one can land.
STALE_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class _Job:
    writes: tuple[ArrayWrite, ...]
    done: Done
    deadline: float


class DistSender(threading.Thread):
    """Writes to one life of one peer's agents, in the order of `put`."""

    def __init__(
        self,
        peer: str,
        me: str,
        host: str,
        arenas: Mapping[int, Arena],
        shards: Sequence[PeerShard],
        algorithm: Algorithm | None,
        measured: Callable[[LinkInfo], None] | None,
    ) -> None:
        super().__init__(name=f"dist-to-{peer}", daemon=True)
        self._me = me
        self._host = host
        self._arenas = arenas
        self._shards = tuple(shards)
        self._checker = WriteChecker(arenas, shards)
        self._algorithm = algorithm
        self._measured = measured
        self._jobs: queue.Queue[_Job | None] = queue.Queue(MAX_QUEUED_WRITES)
        # One per rank of the peer; empty while there are none.
        self._channels: list[Channel] = []
        # On their way to be channels, one per rank.
        self._dials: list[Dial] = []
        # Writes that failed and may still land, until a new channel proves otherwise.
        self._stale: list[Done] = []
        # Why the peer was not reached, and until when that is not tried again.
        self._problem = ""
        self._retry_at = 0.0
        self._stopping = False
        # Held to put a job, and for the thread's end: none is put after it.
        self._lock = threading.Lock()
        self._ended = False

    # --- any thread ---

    def put(self, writes: Sequence[BlockWrite], done: Done, timeout_s: float) -> None:
        """Queue a write.

        Raises HandoffError when the queue is full, a block does not exist or the thread has ended.
        """
        job = _Job(self._checker.check(writes), done, time.monotonic() + timeout_s)
        with self._lock:
            if self._ended:
                raise HandoffError("the peer was disconnected")
            try:
                self._jobs.put_nowait(job)
            except queue.Full:
                raise HandoffError(
                    f"{MAX_QUEUED_WRITES} writes are waiting for this peer"
                ) from None

    def stop(self) -> None:
        """Fail what is queued and under way, and end the thread."""
        self._stopping = True
        for channel in list(self._channels):
            channel.sever()
        try:
            self._jobs.put_nowait(None)
        except queue.Full:
            # The thread sees the flag at its next job.
            return

    # --- the thread ---

    def run(self) -> None:
        try:
            self._serve()
        except Exception:
            log.exception("%s ends", self.name)
        finally:
            self._leave()

    def _serve(self) -> None:
        self._try_connect(STALE_RETRY_S)
        while not self._stopping:
            wait_s = PREFLIGHT_IDLE_S if self._measured is not None else STALE_RETRY_S
            waits = self._stale or self._measured is not None
            try:
                job = self._jobs.get(timeout=wait_s if waits else None)
            except queue.Empty:
                self._look_idle()
                continue
            if job is None:
                break
            try:
                result = self._do(job)
            except Exception as error:
                log.exception("a write to %s failed", self.name)
                result = self._in_doubt(job, error)
            job.done(result)

    def _try_connect(self, wait_s: float) -> str | None:
        """Open the channels unless they are; what went wrong, if anything."""
        if self._channels:
            return None
        if time.monotonic() < self._retry_at:
            return self._problem
        give_up = time.monotonic() + wait_s
        try:
            for shard in self._shards[len(self._dials) :]:
                self._dials.append(self._dial(shard))
            opened = [d.result(max(0.0, give_up - time.monotonic())) for d in self._dials]
        except TimeoutError as error:
            # They go on, and are asked again.
            return str(error)
        except HandoffError as error:
            self._abandon_dials()
            # Those in the queue fail at once, not one wait after another.
            self._problem, self._retry_at = error.message, time.monotonic() + STALE_RETRY_S
            return self._problem
        self._channels, self._dials = opened, []
        settled, self._stale = self._stale, []
        for done in settled:
            done(WriteResult((), 0, error="its channel was closed"))
        return None

    def _dial(self, shard: PeerShard) -> Dial:
        dial = Dial(unpack(shard.metadata), self._host, self._me, nccl=self._on_device(shard))
        dial.start()
        return dial

    def _abandon_dials(self) -> None:
        dials, self._dials = self._dials, []
        for dial in dials:
            dial.abandon()

    def _on_device(self, shard: PeerShard) -> bool:
        """Bytes can go from one GPU's memory to another's."""
        memories = {arena.memory for arena in (*self._arenas.values(), *shard.arenas)}
        if memories != {"VRAM"}:
            return False
        from torch.distributed import is_nccl_available

        return bool(is_nccl_available())

    def _look_idle(self) -> None:
        if self._stale:
            self._sever()
            self._try_connect(STALE_RETRY_S)
        if self._measured is None:
            return
        if self._try_connect(STALE_RETRY_S) is not None:
            self._measured = None
            return
        try:
            rate = measure(self._send_scratch, lambda: not self._jobs.empty())
        except Exception as error:
            # Torch's RuntimeErrors, or anything: no more is lost than a number for people.
            log.warning("%s cannot be measured: %s", self.name, error)
            self._sever()
            rate = 0.0
        if rate is not None:
            tell, self._measured = self._measured, None
            # Gloo has no other way; what NCCL takes, it does not say.
            on_device = self._channels and self._channels[0].on_device
            tell(LinkInfo(UNKNOWN if on_device else TCP, rate))

    def _send_scratch(self) -> bool:
        import torch

        channel = self._channels[0]
        device = "cpu"
        if channel.on_device:
            device = f"cuda:{next(iter(self._arenas.values())).device_id}"
        data = torch.zeros(SCRATCH_BYTES, dtype=torch.uint8, device=device)
        header = np.array([SCRATCH_GROUP, 0, 1, SCRATCH_BYTES], np.int64)
        channel.send_numbers(header, WRITE_WAIT_S)
        channel.send_bytes(data, WRITE_WAIT_S)
        return int(channel.recv_numbers(1, WRITE_WAIT_S)[0]) == LANDED

    def _sever(self) -> None:
        channels, self._channels = self._channels, []
        for channel in channels:
            channel.sever()

    def _do(self, job: _Job) -> WriteResult:
        problem = "the peer was disconnected" if self._stopping else self._try_connect(_left(job))
        if problem is not None:
            return WriteResult((), 0, error=problem)
        checksums: list[tuple[int, ...]] = []
        num_bytes = 0
        for write in job.writes:
            arena = self._arenas[write.group]
            for channel, shard in zip(self._channels, self._shards, strict=True):
                for theirs in shard.arenas:
                    if theirs.group != write.group:
                        continue
                    runs = group_plan(arena, theirs, write.num_parts).part(write.part)
                    size = sum(run.length for run in runs)
                    step = max(1, PIECE_BYTES // max(1, size))
                    for first in range(0, len(write.local) if size else 0, step):
                        failed = self._send(
                            channel,
                            job,
                            write,
                            slice(first, first + step),
                            [(run.ours, run.length) for run in runs],
                            [(run.theirs, run.length) for run in runs],
                        )
                        if failed is not None:
                            return failed
                    num_bytes += size * len(write.local)
            checksums.append(self._checksums(write))
        return WriteResult(tuple(checksums) if self._algorithm else (), num_bytes)

    def _checksums(self, write: ArrayWrite) -> tuple[int, ...]:
        if self._algorithm is None or not write.is_last_part:
            return ()
        arena = self._arenas[write.group]
        runs = checksum_runs(arena, self._shards)
        return tuple(written_checksums(arena, write.local, self._algorithm, runs))

    def _send(
        self,
        channel: Channel,
        job: _Job,
        write: ArrayWrite,
        which: slice,
        ours: Sequence[Run],
        theirs: Sequence[Run],
    ) -> WriteResult | None:
        """One piece, until it has landed; None then, else what to report."""
        if time.monotonic() >= job.deadline:
            return WriteResult((), 0, error="timed out in the queue")
        remote: Ids = write.remote[which]
        data = gather(self._arenas[write.group], write.local[which], ours)
        if not channel.on_device:
            data = data.cpu()
        header = [write.group, len(remote), len(theirs), data.numel()]
        index = [*remote.tolist(), *(number for run in theirs for number in run)]
        try:
            channel.send_numbers(np.array(header, np.int64), _left(job))
            channel.send_numbers(np.array(index, np.int64), _left(job))
            channel.send_bytes(data, _left(job))
            verdict = int(channel.recv_numbers(1, _left(job))[0])
        except RuntimeError as error:
            return self._in_doubt(job, error)
        if verdict != LANDED:
            return WriteResult((), 0, error="the peer expects no writes to these blocks")
        return None

    def _in_doubt(self, job: _Job, error: Exception) -> WriteResult:
        """All of it may be in the peer's hands, with only the verdict missing."""
        self._sever()
        self._stale.append(job.done)
        return WriteResult((), 0, error=_first_line(error), quiesced=False)

    def _leave(self) -> None:
        with self._lock:
            self._ended = True
        self._sever()
        self._abandon_dials()
        self._stale.clear()
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if job is not None:
                job.done(WriteResult((), 0, error="the peer was disconnected"))


def _left(job: _Job) -> float:
    # Gloo takes 0 for no limit.
    return max(0.001, job.deadline - time.monotonic())


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
