"""Transport within one process: numpy copies between arenas, and faults on demand. For tests."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from baton.core.errors import HandoffError
from baton.core.handoff import Key, ReservedGroup
from baton.core.kv import Arena
from baton.transfer.base import (
    BlockWrite,
    LinkInfo,
    PeerShard,
    WriteResult,
)
from baton.transfer.checksum import (
    Algorithm,
    block_checksums,
    common_algorithm,
    written_checksums,
)
from baton.transfer.codec import Codec
from baton.transfer.preflight import SHARED_MEMORY
from baton.transfer.relayout import checksum_runs, group_plan
from baton.transfer.wire_codec import encode_block
from baton.transfer.writes import ArrayWrite, Ids, WriteChecker

Done = Callable[[WriteResult], None]

# Agents of this process by name; a recreated one has a new name, so the old one is not found.
_agents: weakref.WeakValueDictionary[str, InprocTransport] = weakref.WeakValueDictionary()


@dataclass(slots=True)
class Faults:
    """What goes wrong with the next writes; each count is used up one by one, in this order."""

    # Nothing lands, and the write says so.
    fail: int = 0
    # Nothing lands, and nobody is told.
    drop: int = 0
    # Nothing happens until `release_held`.
    hold: int = 0
    # Lands now, and once more at `release_held`.
    duplicate: int = 0
    # One byte lands wrong.
    corrupt: int = 0
    # Every write takes this long, one after another as on one wire ...
    delay_s: float = 0.0
    # ... and its bytes at this rate; 0 is no limit.
    bytes_per_s: float = 0.0

    def take(self) -> str:
        """The fault of the next write, or an empty name."""
        for name in ("fail", "drop", "hold", "duplicate", "corrupt"):
            left = getattr(self, name)
            if left:
                setattr(self, name, left - 1)
                return name
        return ""


@dataclass(frozen=True, slots=True, eq=False)
class _Peer:
    shards: tuple[PeerShard, ...]
    checker: WriteChecker
    algorithm: Algorithm


@dataclass(frozen=True, slots=True, eq=False)
class _Region:
    """Bytes for one run of some blocks at one of the peer's ranks, `[block, byte]`."""

    agent: str
    group: int
    ids: Ids
    offset: int
    data: np.ndarray


@dataclass(slots=True)
class _Copy:
    """One write under way: the bytes as they were when it was sent."""

    regions: list[_Region]
    checksums: tuple[tuple[int, ...], ...]
    done: Done | None
    timed_out: bool = False

    @property
    def num_bytes(self) -> int:
        return sum(region.data.nbytes for region in self.regions)


@dataclass(slots=True, weakref_slot=True, eq=False)
class InprocTransport:
    """`faults` and `release_held` are the tests' handles; the rest is `base.Transport`."""

    prefix: str
    faults: Faults = field(default_factory=Faults)
    name: str = "inproc"
    recreate_fences_node: bool = True
    transport_epoch: int = 1
    _arenas: dict[int, Arena] = field(default_factory=dict)
    _codecs: tuple[Codec, ...] = ()
    _peers: dict[str, _Peer] = field(default_factory=dict)
    _held: list[_Copy] = field(default_factory=list)
    _wire: queue.Queue[tuple[float, _Copy]] | None = None

    @property
    def agent_name(self) -> str:
        return f"{self.prefix}.{self.transport_epoch}"

    def register(self, arenas: Sequence[Arena], codecs: Sequence[Codec] = ()) -> None:
        self._arenas = {arena.group: arena for arena in arenas}
        self._codecs = tuple(codecs)
        _agents[self.agent_name] = self

    @property
    def codecs(self) -> tuple[str, ...]:
        return tuple(codec.name for codec in self._codecs[:1])

    def endpoint_metadata(self) -> bytes:
        return self.agent_name.encode()

    def connect(
        self,
        peer: str,
        shards: Sequence[PeerShard],
        measured: Callable[[LinkInfo], None] | None = None,
    ) -> None:
        theirs = [arena for shard in shards for arena in shard.arenas]
        algorithm = common_algorithm(list(self._arenas.values()), theirs)
        checker = WriteChecker(self._arenas, shards, self.codecs)
        self._peers[peer] = _Peer(tuple(shards), checker, algorithm)
        if measured is not None:
            measured(LinkInfo(SHARED_MEMORY, 0.0))

    def disconnect(self, peer: str) -> None:
        self._peers.pop(peer, None)

    def expect(self, key: Key, groups: Sequence[ReservedGroup]) -> None:
        """Copies are one-sided."""

    def unexpect(self, key: Key) -> None:
        """Nor can they be refused."""

    def send(self, peer: str, writes: Sequence[BlockWrite], done: Done, timeout_s: float) -> None:
        if peer not in self._peers:
            raise HandoffError(f"not connected to {peer}")
        known = self._peers[peer]
        checked = known.checker.check(writes)
        regions: list[_Region] = []
        checksums: list[tuple[int, ...]] = []
        for write in checked:
            if write.codec:
                found, sums = self._encoded(known, write)
            else:
                found, sums = self._regions(known, write), self._checksums(known, write)
            regions += found
            checksums.append(tuple(sums))
        copy = _Copy(regions, tuple(checksums), done)
        faults = self.faults
        slow_s = faults.delay_s
        if faults.bytes_per_s:
            slow_s += copy.num_bytes / faults.bytes_per_s
        if slow_s or self._wire is not None:
            self._slow_wire().put((slow_s, copy))
        else:
            self._start(copy)

    def _slow_wire(self) -> queue.Queue[tuple[float, _Copy]]:
        """The queue of a thread that lets each write take its time; once there, all go through."""
        if self._wire is None:
            self._wire = queue.Queue()
            threading.Thread(target=self._carry, args=(self._wire,), daemon=True).start()
        return self._wire

    def _carry(self, wire: queue.Queue[tuple[float, _Copy]]) -> None:
        while True:
            slow_s, copy = wire.get()
            time.sleep(slow_s)
            self._start(copy)

    def _regions(self, peer: _Peer, write: ArrayWrite) -> list[_Region]:
        ours = self._arenas[write.group]
        blocks = ours.view[write.local]
        return [
            _Region(
                shard.metadata.decode(),
                write.group,
                write.remote,
                run.theirs,
                blocks[:, run.ours : run.ours + run.length],
            )
            for shard in peer.shards
            for theirs in shard.arenas
            if theirs.group == write.group
            for run in group_plan(ours, theirs, write.num_parts).part(write.part)
        ]

    def _encoded(self, peer: _Peer, write: ArrayWrite) -> tuple[list[_Region], list[int]]:
        """A region for each block: its record, or all of it."""
        ours, codec = self._arenas[write.group], self._codecs[write.group]
        agent = peer.shards[0].metadata.decode()
        regions, sums = [], []
        for i, local in enumerate(write.local.tolist()):
            data = np.empty((1, codec.record_bytes), np.uint8)
            checksum = encode_block(codec, ours.view[local], data[0])
            if checksum is None:
                data = ours.view[[local]]
                [checksum] = block_checksums(ours, [local], peer.algorithm)
            regions.append(_Region(agent, write.group, write.remote[i : i + 1], 0, data))
            sums.append(checksum)
        return regions, sums

    def _checksums(self, peer: _Peer, write: ArrayWrite) -> list[int]:
        if not write.is_last_part:
            return []
        ours = self._arenas[write.group]
        runs = checksum_runs(ours, peer.shards)
        return written_checksums(ours, write.local, peer.algorithm, runs)

    def _start(self, copy: _Copy) -> None:
        fault = self.faults.take()
        if fault == "fail":
            _tell(copy, WriteResult((), 0, error="injected failure"))
        elif fault == "hold":
            self._held.append(copy)
        elif fault != "drop":
            if fault == "duplicate":
                self._held.append(_Copy(copy.regions, (), None))
            self._land(copy, corrupt=fault == "corrupt")

    def _land(self, copy: _Copy, *, corrupt: bool = False) -> None:
        remotes = [_agents.get(region.agent) for region in copy.regions]
        for region, remote in zip(copy.regions, remotes, strict=True):
            if remote is None:
                _tell(copy, WriteResult((), 0, error="the peer's agent is gone"))
                return
            view = remote._arenas[region.group].view
            view[region.ids, region.offset : region.offset + region.data.shape[1]] = region.data
            if corrupt and len(region.ids):
                view[region.ids[0], region.offset] ^= 1
                corrupt = False
        if copy.timed_out:
            _tell(copy, WriteResult((), 0, error="timed out, then landed"))
        else:
            _tell(copy, WriteResult(copy.checksums, copy.num_bytes))

    @property
    def num_held(self) -> int:
        return len(self._held)

    def release_held(self) -> int:
        """Let held writes land now; how many there were."""
        held, self._held = self._held, []
        for copy in held:
            self._land(copy)
        return len(held)

    def time_out_held(self) -> None:
        """Report held writes as failed with bytes still under way; they stay held."""
        for copy in self._held:
            copy.timed_out = True
            _tell(copy, WriteResult((), 0, error="timed out", quiesced=False))

    def recreate(self) -> None:
        _agents.pop(self.agent_name, None)
        self._peers.clear()
        held, self._held = self._held, []
        for copy in held:
            _tell(copy, WriteResult((), 0, error="the transport was recreated"))
        self.transport_epoch += 1
        _agents[self.agent_name] = self

    def close(self) -> None:
        _agents.pop(self.agent_name, None)
        self._peers.clear()
        self._held.clear()


def _tell(copy: _Copy, result: WriteResult) -> None:
    if copy.done is not None:
        copy.done(result)
