"""Sends pieces over `dist`'s channels and hears what became of them, see `sender`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from baton.core.errors import HandoffError
from baton.core.kv import Arena
from baton.transfer.base import LinkInfo, PeerShard, WriteResult
from baton.transfer.block_copy import gather
from baton.transfer.checksum import Algorithm, Run, written_checksums
from baton.transfer.dist_channel import (
    LANDED,
    SCRATCH_GROUP,
    Channel,
    Dial,
    unpack,
)
from baton.transfer.preflight import SCRATCH_BYTES, TCP, UNKNOWN, WRITE_WAIT_S
from baton.transfer.relayout import checksum_runs, group_plan
from baton.transfer.sender import Done, Job, Sender
from baton.transfer.writes import ArrayWrite, Ids, WriteChecker

PIECE_BYTES = 16 * 2**20
# How often a new channel is tried, which proves that nothing of the old one can land.
STALE_RETRY_S = 0.5


class DistSender(Sender):
    """`measured`: see `Transport.connect`."""

    stale_poll_s = STALE_RETRY_S

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
        super().__init__(f"dist-to-{peer}", WriteChecker(arenas, shards), measured)
        self._me = me
        self._host = host
        self._arenas = arenas
        self._shards = tuple(shards)
        self._algorithm = algorithm
        # One per rank of the peer; empty while there are none.
        self._channels: list[Channel] = []
        # On their way to be channels, one per rank.
        self._dials: list[Dial] = []
        # Writes that failed and may still land, until a new channel proves otherwise.
        self._stale: list[Done] = []
        # Why the peer was not reached, and until when that is not tried again.
        self._problem = ""
        self._retry_at = 0.0

    def stop(self) -> None:
        """Fail what is queued and under way, and end the thread."""
        self._stopping = True
        for channel in list(self._channels):
            channel.sever()
        super().stop()

    def _try_connect(self, wait_s: float) -> str | None:
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

    @property
    def _has_stale(self) -> bool:
        return bool(self._stale)

    def _look_at_stale(self) -> None:
        self._disconnect()
        self._try_connect(STALE_RETRY_S)

    def _fabric(self) -> str:
        """Gloo has no other way than TCP; what NCCL takes, it does not say."""
        return UNKNOWN if self._channels[0].on_device else TCP

    def _write_scratch(self) -> bool:
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

    def _disconnect(self) -> None:
        channels, self._channels = self._channels, []
        for channel in channels:
            channel.sever()

    def _write(self, job: Job) -> WriteResult:
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
        job: Job,
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

    def _in_doubt(self, job: Job, error: Exception) -> WriteResult:
        """All of it may be in the peer's hands, with only the verdict missing."""
        self._disconnect()
        self._stale.append(job.done)
        return WriteResult((), 0, error=_first_line(error), quiesced=False)

    def _leave(self) -> None:
        self._disconnect()
        self._abandon_dials()
        self._stale.clear()


def _left(job: Job) -> float:
    # Gloo takes 0 for no limit.
    return max(0.001, job.left_s)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
