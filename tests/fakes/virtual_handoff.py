"""A prefill and a decode worker in virtual time: real engines, machines and memory, no threads.

Compute, messages and a link of bounded bandwidth take the time that they are told to take, and
nothing else takes any: what overlaps what is the same in every run.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any

from baton.core.handoff import Key
from baton.core.request import Request
from baton.core.settings import EngineSettings, TransferSettings
from baton.engine.engine import Engine
from baton.engine.mock import MockRunner
from baton.engine.outputs import StepOutput
from baton.transfer import state
from baton.transfer.base import (
    BlockWrite,
    HandoffTiming,
    PeerShard,
    WriteResult,
)
from baton.transfer.effects import Effects, Entry
from baton.transfer.inproc import InprocTransport
from baton.transfer.source_state import SourceHandoff
from baton.transfer.target_state import TargetHandoff
from baton.v1 import transfer_pb2
from baton.worker.handoff_host import EngineHost
from fakes.clock import ManualClock

IDENTITY = state.Identity(b"v" * 16, attempt=1, source_epoch=1, target_epoch=2)


class VirtualTime(ManualClock):
    """A clock with things to do at times to come."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._num = 0

    def later(self, seconds: float, work: Callable[[], None]) -> None:
        self._num += 1
        heapq.heappush(self._due, (self.now + seconds, self._num, work))

    def sleep(self, seconds: float) -> None:
        """Let time pass, and do what falls due."""
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            self.skip()
        self.now = until

    def skip(self) -> None:
        """On to the next thing to do."""
        self.now, _, work = heapq.heappop(self._due)
        work()


class VirtualLink(InprocTransport):
    """Its writes go one after another at `bytes_per_s`, and read memory when they end."""

    def through(self, time: VirtualTime, bytes_per_s: float) -> VirtualLink:
        self._time, self._bytes_per_s, self._free_at = time, bytes_per_s, 0.0
        return self

    def send(
        self,
        peer: str,
        writes: Sequence[BlockWrite],
        done: Callable[[WriteResult], None],
        timeout_s: float,
    ) -> None:
        share = sum(len(w.local) * self._arenas[w.group].block_bytes / w.num_parts for w in writes)
        start = max(self._time.now, self._free_at)
        self._free_at = start + share / self._bytes_per_s
        write = super().send
        self._time.later(
            self._free_at - self._time.now, lambda: write(peer, writes, done, timeout_s)
        )


class VirtualWorker(EngineHost):
    """One side of one handoff; also the Peers of its Effects."""

    def __init__(
        self,
        name: str,
        time: VirtualTime,
        settings: EngineSettings,
        transfer: TransferSettings,
        latency_s: float,
        bytes_per_s: float,
    ) -> None:
        self.runner = MockRunner(settings, sleep=time.sleep)
        self.engine = Engine(
            settings, self.runner, "digest", time, layer_groups=transfer.layer_groups
        )
        super().__init__(self.engine)
        self.time, self.latency_s = time, latency_s
        self.arenas = self.runner.arenas()
        self.transport = VirtualLink(name).through(time, bytes_per_s)
        self.transport.register(self.arenas)
        self.inbox: list[Callable[[], None]] = []
        self.timing: HandoffTiming | None = None
        self.tokens: list[int] = []
        self.effects = Effects(
            self.transport, self.arenas, (), self, self.inbox.append, transfer, self.feed, time
        )

    def connect(self, peer: VirtualWorker) -> None:
        self.peer = peer
        shard = PeerShard(peer.transport.endpoint_metadata(), tuple(peer.arenas))
        self.transport.connect("peer", [shard])

    def open(self, key: Key, request: Request, machine: SourceHandoff | TargetHandoff) -> None:
        self.entry = Entry(key, machine, ("peer", 1), "r", request, self)

    def feed(self, entry: Entry, event: state.Event) -> None:
        for action in entry.machine.handle(event, self.time.now):
            self.effects.do(entry, action)

    def handed_off(self, key: Key, timing: HandoffTiming) -> None:
        self.timing = timing

    # --- Peers ---

    def send(self, peer_id: Any, message: transfer_pb2.HandoffMessage) -> None:
        received = state.Received(message)
        peer = self.peer
        self.time.later(
            self.latency_s,
            lambda: peer.inbox.append(lambda: peer.feed(peer.entry, received)),
        )

    def find(self, peer_id: Any) -> None:
        return None

    def transport_epoch(self, peer_id: Any) -> int:
        return self.peer.transport.transport_epoch

    # --- the loop ---

    def turn(self) -> None:
        self.drain()
        if self.engine.has_work:
            self.forward(self.engine.step(self.in_step))

    def in_step(self, output: StepOutput) -> None:
        self.forward(output)
        self.drain()

    def drain(self) -> None:
        while self.inbox:
            self.inbox.pop(0)()

    def forward(self, output: StepOutput) -> None:
        self.note_first_tokens(output.rows)
        self.tokens += [row.token for row in output.rows]
        for due in output.offers:
            self.feed(self.entry, state.Due(due.num_tokens, due.hashes, due.num_blocks))
        for ready in output.ready:
            outputs = self.take_outputs(ready.key) if ready.done else None
            event = state.Ready(
                ready.first_index, ready.block_ids, outputs, ready.part, ready.num_parts
            )
            self.feed(self.entry, event)


def hand_over(
    request: Request,
    *,
    layer_groups: int,
    chunk_tokens: int,
    chunk_s: float,
    chunk_transfer_s: float,
    latency_s: float,
) -> tuple[HandoffTiming, list[int]]:
    """Compute a prompt on one worker and go on with it on another: the source's timing, tokens."""
    time = VirtualTime()
    settings = EngineSettings(
        kind="mock",
        block_size=16,
        kv_blocks=256,
        max_batch_tokens=chunk_tokens,
        mock_prefill_us_per_token=chunk_s / chunk_tokens * 1e6,
    )
    transfer = TransferSettings(layer_groups=layer_groups)
    # The mock's KV is 8 bytes a token.
    bytes_per_s = 8 * chunk_tokens / chunk_transfer_s
    source, target = (
        VirtualWorker(name, time, settings, transfer, latency_s, bytes_per_s)
        for name in ("virtual-source", "virtual-target")
    )
    source.connect(target)
    target.connect(source)
    source_key, target_key = ("s", 0), ("t", 0)
    source.open(source_key, request, SourceHandoff(IDENTITY, {0}, 1e9, transfer))
    target.open(target_key, request, TargetHandoff(IDENTITY, {0}, 1, 1e9, transfer, time.now))
    source.sources.add(source_key)
    source.engine.add(source_key, request, handoff=True)
    # The target is idle, and hears at once.
    target.inbox = _AtOnce()
    target.effects._post = target.inbox.append
    while source.timing is None:
        if not source.engine.has_work and not source.inbox:
            time.skip()
        source.turn()
    while target.engine.has_work:
        target.turn()
    return source.timing, source.tokens + target.tokens


class _AtOnce(list[Callable[[], None]]):
    """An inbox whose owner waits for it."""

    def append(self, work: Callable[[], None]) -> None:
        work()
