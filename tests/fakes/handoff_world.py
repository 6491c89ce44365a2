"""A simulated source and target around the pure handoff machines, with everything between them.

Writes, messages and checks wait until somebody says how they end. What must hold at any time is
asserted where it could be broken.

The network may lose, repeat, hold back and reorder messages one by one, and bring those of an
earlier life after a restart. It is worse than a stream, which loses messages only at its end.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from baton.core.request import Request
from baton.core.settings import TransferSettings
from baton.transfer import state
from baton.transfer.base import BlockWrite, WriteResult
from baton.transfer.entry import Entry
from baton.transfer.fetching import Fetching
from baton.transfer.parking import Parking
from baton.transfer.source_state import SourceHandoff
from baton.transfer.target_state import TargetHandoff, TargetState
from baton.v1 import common_pb2, transfer_pb2
from fakes.transfer import FakeHost

SETTINGS = TransferSettings()
POOL = 8
BLOCKS = 3
# A moved sequence may generate this many tokens meanwhile, which takes a block more.
GROWTH = 4
MOST_BLOCKS = 4
LIFETIME_S = 120.0
# Time passes in leaps, and a deadline may be looked at a whole leap late.
LEAPS_S = (3.0, 11.0, 25.0)
SOURCE = ("source", 0)
TARGET = ("target", 0)
CODEC = "int8"


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
        # Who has the codec of the wire.
        self.source_encodes = self.target_decodes = False
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
        # Contents of the target's blocks: (request seed, offered index), ("record", these), or
        # something wrong.
        self.memory: dict[int, object] = {}
        # Blocks of which some parts have landed: contents, and which parts.
        self.partly: dict[int, tuple[object, set[int]]] = {}
        # Moves of running sequences, those that were asked to stop, and how many blocks they have.
        self.moves: set[bytes] = set()
        self.stops_wanted: list[bytes] = []
        self.grown: dict[bytes, int] = {}
        # Handoffs that fetch cached blocks, and how many of them the source lends; until when the
        # lending may take.
        self.fetches: dict[bytes, int] = {}
        self.lent_until: dict[bytes, float] = {}
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
            case state.Reserve(num_tokens, hashes, num_blocks, growth, codecs):
                request = self.requests[handoff_id]
                groups = host.reserve(key, request, num_tokens, hashes, num_blocks, growth)
                codec = CODEC if self.target_decodes and CODEC in codecs else ""
                self.feed(
                    side,
                    handoff_id,
                    state.NoRoom() if groups is None else state.Reserved(groups, self.agent, codec),
                )
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
        if handoff_id in self.fetches:
            # Cached blocks have no tokens to come.
            return
        self.speakers[handoff_id].add(side)
        assert len(self.speakers[handoff_id]) == 1, "two workers speak for one attempt"

    def expected(self, handoff_id: bytes) -> list[tuple[int, object]]:
        """(block, contents) of everything that was granted to a handoff."""
        key, _ = self.target.machines[handoff_id]
        seed = self.requests[handoff_id].seed
        count = self.fetches.get(handoff_id, self.grown.get(handoff_id, BLOCKS))
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
        if piece.codec and not corrupt:
            contents = ("record", contents)
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
        handoff_id, verify = self.verifies.pop(0)
        if self.target.machines[handoff_id][1].state is not TargetState.VERIFYING:
            self.feed("target", handoff_id, state.Verified("too late to matter"))
            return
        expected = self.expected(handoff_id)
        forms = {b: [c, ("record", c)] if verify.codec else [c] for b, c in expected}
        wrong = [b for b, right in forms.items() if self.memory.get(b) not in right]
        if not wrong:
            # Records are decoded where they lie.
            self.memory.update(expected)
        problem = f"block {wrong[0]} differs" if wrong else None
        self.feed("target", handoff_id, state.Verified(problem))

    def receive(self, side: str, event: state.Received) -> None:
        process, message = getattr(self, side), event.message
        entry = process.machines.get(message.handoff_id)
        if entry is None and message.WhichOneof("body") == "fetch":
            answer = self.lender().lend(TARGET, message) if side == "source" else None
            if answer is not None:
                self.send(side, answer)
        elif entry is None:
            answer = process.parking.receive(SOURCE, message, process.epoch, self.now)
            if answer is not None:
                self.send(side, answer)
        elif entry[1].identity.names(message):
            self.feed(side, message.handoff_id, event)

    def lender(self) -> Fetching:
        """What answers a Fetch in the source's present life."""
        process = self.source

        def add(entry: Entry) -> None:
            process.machines[entry.handoff_id] = (entry.key, entry.machine)
            self.lent_until[entry.handoff_id] = entry.machine.due_at

        return Fetching(
            common_pb2.WorkerRef(worker_id="source", epoch=process.epoch),
            1,
            process.host,
            None,
            SETTINGS,
            (CODEC,) if self.source_encodes else (),
            lambda: self.now,
            add,
            lambda entry, event: self.feed("source", entry.handoff_id, event),
        )

    def tick(self) -> None:
        bound = max(LEAPS_S) + SETTINGS.write_wait_s
        for side in ("source", "target"):
            self.feed_all(side, state.Tick())
            process = getattr(self, side)
            for _, refusal in process.parking.expire(self.now):
                self.send("target", refusal)
            for handoff_id, (_, machine) in process.machines.items():
                until = self.requests[handoff_id].deadline
                if side == "source":
                    until = self.lent_until.get(handoff_id, until)
                late = self.now - until
                assert machine.closed or late < bound, f"hangs in {machine.state}"

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
