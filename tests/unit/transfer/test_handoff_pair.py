"""A source and a target through random interleavings, lost streams, duplicates, hangs and crashes.

What must hold whatever happens:
- only blocks with just the right contents are ever adopted;
- a write lands only in blocks that are reserved, or in quarantine, for its own handoff;
- every block has one owner at a time, and none is lost;
- every handoff ends, once, within its deadlines.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from baton.core.errors import HandoffError
from baton.core.request import FinishReason, Request
from baton.core.settings import TransferSettings
from baton.transfer import state
from baton.transfer.base import BlockWrite, SourceOutput, WriteResult
from baton.transfer.parking import Parking
from baton.transfer.source_state import SourceHandoff
from baton.transfer.target_state import TargetHandoff, TargetState
from fakes.transfer import FakeHost, due_of, make_request
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

SETTINGS = TransferSettings()
POOL = 8
BLOCKS = 3
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


class Pair(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.epochs = 10
        self.agent = 1
        self.connected = True
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
        self.verifies: list[tuple[bytes, state.Verify]] = []
        self.unsubmitted: list[tuple[state.Identity, Request, int]] = []

    def _epoch(self) -> int:
        self.epochs += 1
        return self.epochs

    # --- the shells around the machines ---

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
                if self.connected:
                    other = "target" if side == "source" else "source"
                    self.wire[other].append(state.Received(message))
            case state.Write(write_id, writes, agent):
                epoch = self.source.epoch
                self.in_flight.append(InFlight(epoch, agent, machine, write_id, writes))
            case state.Granted():
                host.granted(key)
            case state.Release():
                host.release(key)
            case state.Reserve(num_tokens, hashes, num_blocks):
                request = self.requests[handoff_id]
                groups = host.reserve(key, request, num_tokens, hashes, num_blocks)
                event = state.NoRoom() if groups is None else state.Reserved(groups, self.agent)
                self.feed(side, handoff_id, event)
            case state.Verify():
                self.verifies.append((handoff_id, action))
            case state.Adopt(outputs):
                self.check_contents(handoff_id, machine)
                host.adopt(key, outputs)
            case state.Unreserve(quarantine, _):
                host.unreserve(key, quarantine=quarantine)
            case state.Lift():
                host.lift_quarantine(key)
            case state.Report(error, timing):
                if error is None:
                    host.handed_off(key, timing)
                else:
                    host.failed(key, error)

    def expected(self, handoff_id: bytes) -> list[tuple[int, object]]:
        """(block, contents) of everything that was granted to a handoff."""
        key, _ = self.target.machines[handoff_id]
        seed = self.requests[handoff_id].seed
        return [(b, (seed, i)) for i, b in enumerate(self.target.host.reserved[key])]

    def check_contents(self, handoff_id: bytes, machine: TargetHandoff) -> None:
        for block, contents in self.expected(handoff_id):
            assert self.memory.get(block) == contents, "adopted what was not verified"

    # --- submissions and the source's engine ---

    @precondition(lambda self: len(self.requests) < 12)
    @rule(at_once=st.integers(0, 5).map(lambda n: n < 5))
    def submit(self, at_once: bool) -> None:
        number = len(self.requests)
        handoff_id = bytes([number]) * 16
        request = make_request(10, seed=number, deadline=self.now + LIFETIME_S)
        self.requests[handoff_id] = request
        self.progress[handoff_id] = None
        identity = state.Identity(handoff_id, 1, self.source.epoch, self.target.epoch)
        source = SourceHandoff(identity, {0}, request.deadline, SETTINGS)
        self.source.machines[handoff_id] = (("s", number), source)
        self.unsubmitted.append((identity, request, number))
        if at_once:
            self.submit_to_target()

    @precondition(lambda self: self.unsubmitted)
    @rule()
    def submit_to_target(self) -> None:
        identity, request, number = self.unsubmitted.pop(0)
        if identity.target_epoch != self.target.epoch:
            return
        machine = TargetHandoff(identity, {0}, 1, request.deadline, SETTINGS, self.now)
        self.target.machines[identity.handoff_id] = (("t", number), machine)
        for message in self.target.parking.take(identity.handoff_id, SOURCE):
            self.feed("target", identity.handoff_id, state.Received(message))

    @precondition(lambda self: self.source.machines)
    @rule(count=st.integers(1, BLOCKS), ended=st.integers(0, 7).map(lambda n: n == 7))
    def compute(self, count: int, ended: bool) -> None:
        for handoff_id in list(self.source.machines):
            self.compute_one(handoff_id, count, ended)

    def compute_one(self, handoff_id: bytes, count: int, ended: bool) -> None:
        done = self.progress[handoff_id]
        if done is None:
            due = due_of(("s", 0), self.requests[handoff_id])
            self.progress[handoff_id] = 0
            event: state.Event = state.Due(due.num_tokens, due.hashes, due.num_blocks)
        elif done < BLOCKS:
            count = min(count, BLOCKS - done)
            self.progress[handoff_id] = done + count
            outputs = None
            if done + count == BLOCKS:
                outputs = {0: SourceOutput((7,), FinishReason.STOP if ended else None)}
            # A source's block ids tell which request and index they hold.
            seed = self.requests[handoff_id].seed
            ids = tuple(100 * seed + i for i in range(done, done + count))
            event = state.Ready((done,), (ids,), outputs)
        else:
            return
        self.feed("source", handoff_id, event)

    # --- writes ---

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), how=st.sampled_from(["land", "land", "land", "corrupt", "fail", "hang"]))
    def write_ends(self, data, how: str) -> None:
        write = data.draw(st.sampled_from(self.in_flight))
        if how == "hang":
            if not write.told:
                write.told = True
                self.written(write, WriteResult((), 0, error="timed out", quiesced=False))
            return
        self.in_flight.remove(write)
        fenced = write.agent != self.agent
        if how == "fail" or fenced:
            self.written(write, WriteResult((), 0, error="broken"))
            return
        handoff_id = write.machine.identity.handoff_id
        for part in write.writes:
            for local, remote in zip(part.local, part.remote, strict=True):
                self.land(handoff_id, remote, local, corrupt=how == "corrupt")
        sums = tuple(tuple(part.local) for part in write.writes)
        if write.told:
            self.written(write, WriteResult((), 0, error="timed out, then landed"))
        else:
            self.written(write, WriteResult(sums, BLOCKS))

    def land(self, handoff_id: bytes, block: int, local: int, *, corrupt: bool) -> None:
        entry = self.target.machines.get(handoff_id)
        assert entry is not None, "written for a handoff that the target does not know"
        host, key = self.target.host, entry[0]
        owned = host.reserved.get(key, ()) + host.quarantined.get(key, ())
        assert block in owned, "a write landed in a block that is no longer its handoff's"
        self.memory[block] = "wrong" if corrupt else (local // 100, local % 100)

    def written(self, write: InFlight, result: WriteResult) -> None:
        if write.source_epoch == self.source.epoch:
            handoff_id = write.machine.identity.handoff_id
            self.feed("source", handoff_id, state.Written(write.write_id, result))

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

    # --- the wire ---

    @precondition(lambda self: self.wire["target"] or self.wire["source"])
    @rule(rounds=st.integers(1, 3), twice=st.sampled_from([False, False, True]))
    def deliver(self, rounds: int, twice: bool) -> None:
        for _ in range(rounds):
            for side in ("target", "source"):
                arrived, self.wire[side] = self.wire[side], []
                for event in arrived:
                    for _ in range(2 if twice else 1):
                        self.receive(side, event)

    def receive(self, side: str, event: state.Received) -> None:
        process, message = getattr(self, side), event.message
        entry = process.machines.get(message.handoff_id)
        if entry is None:
            answer = process.parking.receive(SOURCE, message, process.epoch, self.now)
            if answer is not None and self.connected:
                self.wire["target" if side == "source" else "source"].append(state.Received(answer))
        elif entry[1].identity.names(message):
            self.feed(side, message.handoff_id, event)

    def stream_breaks(self, data) -> None:
        self.connected = False
        self.wire = {"target": [], "source": []}

    @precondition(lambda self: not self.connected)
    @rule(given_up=st.booleans())
    def stream_returns(self, given_up: bool) -> None:
        if given_up:
            self.target.parking.forget(SOURCE)
            self.feed_all("source", state.PeerLost("gone too long"))
            self.feed_all("target", state.PeerLost("gone too long"))
        self.connected = True
        self.feed_all("source", state.PeerUp())
        self.feed_all("target", state.PeerUp())

    # --- what users and machines do ---

    @precondition(lambda self: self.in_flight or self.target.host.reserved)
    @rule(data=st.data())
    def mishap(self, data) -> None:
        """One rule for all, so that handoffs get far enough to be hit."""
        what = [
            self.cancel,
            self.cancel,
            self.long_time_passes,
            self.engine_gives_up,
            self.stream_breaks,
            self.source_crashes,
            self.target_crashes,
            self.target_recreates_its_agent,
            self.source_recreates_its_agent,
        ]
        data.draw(st.sampled_from(what))(data)

    def cancel(self, data) -> None:
        side = data.draw(st.sampled_from(["source", "target"]))
        handoff_id = data.draw(st.sampled_from(sorted(self.requests)[-4:]))
        self.feed(side, handoff_id, state.Stop("client gone"))

    def engine_gives_up(self, data) -> None:
        handoff_id = data.draw(st.sampled_from(sorted(self.requests)))
        if self.progress[handoff_id] != BLOCKS:
            self.feed("source", handoff_id, state.ComputeFailed(HandoffError("no blocks")))

    @rule()
    def a_moment_passes(self) -> None:
        self.now += 0.1
        self.tick()
        self.feed_all("target", state.RoomFreed())

    def long_time_passes(self, data) -> None:
        self.now += data.draw(st.sampled_from([3.0, 11.0, 25.0]))
        self.tick()

    def tick(self) -> None:
        for side in ("source", "target"):
            self.feed_all(side, state.Tick())
            process = getattr(self, side)
            for _, refusal in process.parking.expire(self.now):
                if self.connected:
                    self.wire["source"].append(state.Received(refusal))

    @precondition(lambda self: self.target.host.adopted_blocks)
    @rule(data=st.data())
    def adopted_request_ends(self, data) -> None:
        host = self.target.host
        key = data.draw(st.sampled_from(sorted(host.adopted_blocks)))
        for block in host.adopted_blocks[key]:
            self.memory.pop(block, None)
        host.finish(key)
        self.feed_all("target", state.RoomFreed())

    def source_crashes(self, data) -> None:
        # What a dead process had in flight is gone with it.
        self.in_flight = [w for w in self.in_flight if w.source_epoch != self.source.epoch]
        self.source = Process(self._epoch(), FakeHost(POOL))
        self.wire = {"target": [], "source": []}
        self.target.parking.forget(SOURCE)
        self.feed_all("target", state.PeerLost("crashed"))
        self.feed_all("target", state.PeerDead())
        self.connected = True

    def target_crashes(self, data) -> None:
        self.in_flight.clear()
        self.verifies.clear()
        self.memory.clear()
        self.wire = {"target": [], "source": []}
        self.target = Process(self._epoch(), FakeHost(POOL))
        self.feed_all("source", state.PeerLost("crashed"))
        self.feed_all("source", state.PeerDead())
        self.connected = True

    def target_recreates_its_agent(self, data) -> None:
        fenced = data.draw(st.booleans())
        if fenced:
            self.agent += 1
        self.feed_all("target", state.Recreated(fenced))

    def source_recreates_its_agent(self, data) -> None:
        self.feed_all("source", state.Recreated(True))

    # --- what must hold ---

    @invariant()
    def blocks_have_one_owner(self) -> None:
        host = self.target.host
        owned = [*host.free]
        for owner in (host.reserved, host.quarantined, host.adopted_blocks):
            owned += [block for blocks in owner.values() for block in blocks]
        assert sorted(owned) == list(range(POOL))

    def teardown(self) -> None:
        """Let time and messages run out: everything ends, and no block is lost."""
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
        for part in write.writes:
            for local, remote in zip(part.local, part.remote, strict=True):
                self.land(write.machine.identity.handoff_id, remote, local, corrupt=False)
        error = "timed out, then landed" if write.told else None
        sums = () if write.told else tuple(tuple(part.local) for part in write.writes)
        self.written(write, WriteResult(sums, BLOCKS, error=error))


TestPair = Pair.TestCase
TestPair.settings = settings(
    derandomize=True, deadline=None, max_examples=300, stateful_step_count=50
)
