"""Transport within one process: numpy copies between arenas, and faults on demand. For tests."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from baton.core.errors import HandoffError
from baton.transfer.base import Arena, BlockWrite, Key, ReservedGroup, WriteResult
from baton.transfer.checksum import Algorithm, block_checksums, common_algorithm

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
    # Every write takes this long.
    delay_s: float = 0.0

    def take(self) -> str:
        """The fault of the next write, or an empty name."""
        for name in ("fail", "drop", "hold", "duplicate", "corrupt"):
            left = getattr(self, name)
            if left:
                setattr(self, name, left - 1)
                return name
        return ""


@dataclass(slots=True)
class _Copy:
    """One write under way: the bytes as they were when it was sent."""

    remote_agent: str
    writes: tuple[BlockWrite, ...]
    blocks: list[np.ndarray]
    checksums: tuple[tuple[int, ...], ...]
    done: Done | None
    timed_out: bool = False

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for part in self.blocks)


@dataclass(slots=True, weakref_slot=True, eq=False)
class InprocTransport:
    """`faults` and `release_held` are the tests' handles; the rest is `base.Transport`."""

    prefix: str
    faults: Faults = field(default_factory=Faults)
    name: str = "inproc"
    recreate_fences_node: bool = True
    transport_epoch: int = 1
    _arenas: dict[int, Arena] = field(default_factory=dict)
    _peers: dict[str, tuple[str, Algorithm]] = field(default_factory=dict)
    _held: list[_Copy] = field(default_factory=list)

    @property
    def agent_name(self) -> str:
        return f"{self.prefix}.{self.transport_epoch}"

    def register(self, arenas: Sequence[Arena]) -> None:
        self._arenas = {arena.group: arena for arena in arenas}
        _agents[self.agent_name] = self

    def endpoint_metadata(self) -> bytes:
        return self.agent_name.encode()

    def connect(self, peer: str, metadata: bytes, arenas: Sequence[Arena]) -> None:
        algorithm = common_algorithm(list(self._arenas.values()), arenas)
        self._peers[peer] = (metadata.decode(), algorithm)

    def disconnect(self, peer: str) -> None:
        self._peers.pop(peer, None)

    def expect(self, key: Key, groups: Sequence[ReservedGroup]) -> None:
        """Copies are one-sided."""

    def send(self, peer: str, writes: Sequence[BlockWrite], done: Done, timeout_s: float) -> None:
        if peer not in self._peers:
            raise HandoffError(f"not connected to {peer}")
        remote_agent, algorithm = self._peers[peer]
        blocks = [self._arenas[w.group].view[list(w.local)] for w in writes]
        checksums = tuple(
            tuple(block_checksums(self._arenas[w.group], w.local, algorithm)) for w in writes
        )
        copy = _Copy(remote_agent, tuple(writes), blocks, checksums, done)
        if self.faults.delay_s:
            timer = threading.Timer(self.faults.delay_s, self._start, [copy])
            timer.daemon = True
            timer.start()
        else:
            self._start(copy)

    def _start(self, copy: _Copy) -> None:
        fault = self.faults.take()
        if fault == "fail":
            _tell(copy, WriteResult((), 0, error="injected failure"))
        elif fault == "hold":
            self._held.append(copy)
        elif fault != "drop":
            if fault == "duplicate":
                again = _Copy(copy.remote_agent, copy.writes, copy.blocks, (), None)
                self._held.append(again)
            self._land(copy, corrupt=fault == "corrupt")

    def _land(self, copy: _Copy, *, corrupt: bool = False) -> None:
        remote = _agents.get(copy.remote_agent)
        if remote is None:
            _tell(copy, WriteResult((), 0, error="the peer's agent is gone"))
            return
        for write, blocks in zip(copy.writes, copy.blocks, strict=True):
            remote._arenas[write.group].view[list(write.remote)] = blocks
        if corrupt:
            first = copy.writes[0]
            remote._arenas[first.group].view[first.remote[0], 0] ^= 1
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
