"""A simulated source and target around the pure handoff machines, with everything between them.

Writes, messages and checks wait until somebody says how they end. What must hold at any time is
asserted where it could be broken.

The network may lose, repeat, hold back and reorder messages one by one, and bring those of an
earlier life after a restart. It is worse than gRPC, which loses messages only with their stream.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from baton.core.request import Request
from baton.core.settings import TransferSettings
from baton.transfer import state
from baton.transfer.base import BlockWrite, WriteResult
from baton.transfer.parking import Parking
from baton.transfer.source_state import SourceHandoff
from baton.transfer.target_state import TargetHandoff, TargetState
from baton.v1 import transfer_pb2
from fakes.transfer import FakeHost

SETTINGS = TransferSettings()
POOL = 8
BLOCKS = 3
# A moved sequence may generate this many tokens meanwhile, which takes a block more.
GROWTH = 4
MOST_BLOCKS = 4
LIFETIME_S = 120.0
SOURCE = ("source", 0)


@dataclass(eq=False)
class InFlight:
    """A write that may land. `told`: its hang was reported already."""

    source_epoch: int
    agent: int
    machine: SourceHandoff
    write_id: int
    writes: tuple[BlockWrite, ...]
    told: bool = False


@dataclass(eq=False)
class Process:
    """One life of a worker: machines by handoff, and a host."""

    epoch: int
    host: FakeHost
    machines: dict[bytes, tuple[tuple[str, int], SourceHandoff | TargetHandoff]] = field(
        default_factory=dict
    )
    parking: Parking = field(default_factory=lambda: Parking(SETTINGS.offer_wait_s))


class World(RuleBasedStateMachine):
    """Both processes, the wire, the writes in flight and the target's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.epochs = 10
        self.agent = 1
        self.connected = True
        # Whether streams come back at the end, which makes both sides say again how it ended.
        self.reconnects_at_the_end = True
        # Who has generated a handoff's next token, or ended it, for its client.
        self.speakers: dict[bytes, set[str]] = defaultdict(set)
        self.source = Process(self._epoch(), FakeHost(POOL))
        self.target = Process(self._epoch(), FakeHost(POOL))
        self.requests: dict[bytes, Request] = {}
        # Handoff -> how far the source's engine has come: blocks ready, or None before OfferDue.
        self.progress: dict[bytes, int | None] = {}
        # Messages under way, to the target and to the source.
        self.wire: dict[str, list[state.Received]] = {"target": [], "source": []}
        self.in_flight: list[InFlight] = []
        # Contents of the target's blocks: (request seed, offered index), or something wrong.
        self.memory: dict[int, object] = {}
        # Blocks of which some parts have landed: contents, and which parts.
        self.partly: dict[int, tuple[object, set[int]]] = {}
        # Moves of running sequences, those that were asked to stop, and how many blocks they have.
        self.moves: set[bytes] = set()
        self.stops_wanted: list[bytes] = []
        self.grown: dict[bytes, int] = {}
        self.verifies: list[tuple[bytes, state.Verify]] = []
        self.unsubmitted: list[tuple[state.Identity, Request, int]] = []

    def _epoch(self) -> int:
        self.epochs += 1
        return self.epochs

    def feed(self, side: str, handoff_id: bytes, event: state.Event) -> None:
        process = getattr(self, side)
        if handoff_id not in process.machines:
            return
        key, machine = process.machines[handoff_id]
        for action in machine.handle(event, self.now):
            self.do(side, handoff_id, key, machine, action)

    def feed_all(self, side: str, event: state.Event) -> None:
        for handoff_id in list(getattr(self, side).machines):
            self.feed(side, handoff_id, event)

    def do(self, side, handoff_id, key, machine, action) -> None:
        host = getattr(self, side).host
        match action:
            case state.Send(message):
                self.send(side, message)
                if message.WhichOneof("body") == "withdraw":
                    self.speak(handoff_id, "source")
            case state.Write(write_id, writes, agent):
                epoch = self.source.epoch
                self.in_flight.append(InFlight(epoch, agent, machine, write_id, writes))
            case state.StopMove():
                self.stops_wanted.append(handoff_id)
            case state.Granted():
                host.granted(key)
            case state.Release():
                host.release(key)
            case state.Reserve(num_tokens, hashes, num_blocks, growth):
                request = self.requests[handoff_id]
                groups = host.reserve(key, request, num_tokens, hashes, num_blocks, growth)
                event = state.NoRoom() if groups is None else state.Reserved(groups, self.agent)
                self.feed(side, handoff_id, event)
            case state.Verify():
                self.verifies.append((handoff_id, action))
            case state.Adopt(outputs):
                self.check_contents(handoff_id, machine)
                host.adopt(key, outputs)
                self.speak(handoff_id, "target")
            case state.Unreserve(quarantine, _):
                host.unreserve(key, quarantine=quarantine)
            case state.Lift():
                host.lift_quarantine(key)
            case state.Report(error, timing, _, in_doubt):
                if error is None:
                    host.handed_off(key, timing)
                else:
                    host.failed(key, error)
                if error is not None and side == "source" and not in_doubt:
                    # A sequence that could not be moved goes on where it was.
                    self.speak(handoff_id, "source")

    def send(self, side: str, message: transfer_pb2.HandoffMessage) -> None:
        if self.connected:
            self.wire["target" if side == "source" else "source"].append(state.Received(message))

    def speak(self, handoff_id: bytes, side: str) -> None:
        self.speakers[handoff_id].add(side)
        assert len(self.speakers[handoff_id]) == 1, "two workers speak for one attempt"

    def expected(self, handoff_id: bytes) -> list[tuple[int, object]]:
        """(block, contents) of everything that was granted to a handoff."""
        key, _ = self.target.machines[handoff_id]
        seed = self.requests[handoff_id].seed
        count = self.grown.get(handoff_id, BLOCKS)
        reserved = self.target.host.reserved[key][:count]
        assert len(reserved) == count, "adopts less than there is"
        return [(block, (seed, i)) for i, block in enumerate(reserved)]

    def check_contents(self, handoff_id: bytes, machine: TargetHandoff) -> None:
        for block, contents in self.expected(handoff_id):
            assert self.memory.get(block) == contents, "adopted what was not verified"

    def land_all(self, write: InFlight, *, corrupt: bool = False) -> None:
        for piece in write.writes:
            for local, remote in zip(piece.local, piece.remote, strict=True):
                self.land(write.machine.identity.handoff_id, remote, local, piece, corrupt=corrupt)

    def land(
        self, handoff_id: bytes, block: int, local: int, piece: BlockWrite, *, corrupt: bool
    ) -> None:
        entry = self.target.machines.get(handoff_id)
        assert entry is not None, "written for a handoff that the target does not know"
        host, key = self.target.host, entry[0]
        owned = host.reserved.get(key, ()) + host.quarantined.get(key, ())
        assert block in owned, "a write landed in a block that is no longer its handoff's"
        contents: object = "wrong" if corrupt else (local // 100, local % 100)
        earlier, parts = self.partly.pop(block, (contents, set()))
        parts = parts | {piece.part} if earlier == contents else {piece.part}
        if len(parts) == piece.num_parts:
            self.memory[block] = contents
        else:
            self.partly[block] = (contents, parts)
            self.memory.pop(block, None)

    def written(self, write: InFlight, result: WriteResult) -> None:
        if write.source_epoch == self.source.epoch:
            handoff_id = write.machine.identity.handoff_id
            self.feed("source", handoff_id, state.Written(write.write_id, result, self.now))

    @precondition(lambda self: self.verifies)
    @rule()
    def finish_check(self) -> None:
        handoff_id, _ = self.verifies.pop(0)
        if self.target.machines[handoff_id][1].state is not TargetState.VERIFYING:
            self.feed("target", handoff_id, state.Verified("too late to matter"))
            return
        wrong = [b for b, contents in self.expected(handoff_id) if self.memory.get(b) != contents]
        problem = f"block {wrong[0]} differs" if wrong else None
        self.feed("target", handoff_id, state.Verified(problem))

    def receive(self, side: str, event: state.Received) -> None:
        process, message = getattr(self, side), event.message
        entry = process.machines.get(message.handoff_id)
        if entry is None:
            answer = process.parking.receive(SOURCE, message, process.epoch, self.now)
            if answer is not None:
                self.send(side, answer)
        elif entry[1].identity.names(message):
            self.feed(side, message.handoff_id, event)

    def tick(self) -> None:
        for side in ("source", "target"):
            self.feed_all(side, state.Tick())
            process = getattr(self, side)
            for _, refusal in process.parking.expire(self.now):
                self.send("target", refusal)
            for handoff_id, (_, machine) in process.machines.items():
                late = self.now - self.requests[handoff_id].deadline
                assert machine.closed or late < SETTINGS.write_wait_s, f"hangs in {machine.state}"

    @invariant()
    def blocks_have_one_owner(self) -> None:
        host = self.target.host
        owned = [*host.free]
        for owner in (host.reserved, host.quarantined, host.adopted_blocks):
            owned += [block for blocks in owner.values() for block in blocks]
        assert sorted(owned) == list(range(POOL))

    def teardown(self) -> None:
        """Let time and messages run out: everything ends, and no block is lost."""
        if self.reconnects_at_the_end or not self.connected:
            self.connected = True
            for side in ("source", "target"):
                self.feed_all(side, state.PeerUp())
        for _ in range(40):
            self.settle()
            self.now += 5.0
            self.tick()
        self.settle()
        for process in (self.source, self.target):
            for _, machine in process.machines.values():
                assert machine.closed, f"never ended: {machine.state}"
        assert sorted(self.source.host.released) == sorted(
            key for key, _ in self.source.machines.values()
        )
        host = self.target.host
        assert not host.reserved and not host.quarantined
        super().teardown()

    def settle(self) -> None:
        for _ in range(50):
            while self.in_flight:
                self.write_ends_now(self.in_flight.pop(0))
            for side in ("source", "target"):
                while self.wire[side]:
                    self.receive(side, self.wire[side].pop(0))
            while self.verifies:
                self.finish_check()
            if not (self.in_flight or self.wire["source"] or self.wire["target"]):
                return

    def write_ends_now(self, write: InFlight) -> None:
        if write.agent != self.agent:
            self.written(write, WriteResult((), 0, error="the agent is gone"))
            return
        self.land_all(write)
        if write.told:
            self.written(write, WriteResult((), 0, error="timed out, then landed"))
        else:
            self.written(write, WriteResult(checksums(write), BLOCKS))


def checksums(write: InFlight) -> tuple[tuple[int, ...], ...]:
    """Of whole blocks, which come with their last part."""
    return tuple(
        tuple(piece.local) if piece.part == piece.num_parts - 1 else () for piece in write.writes
    )
