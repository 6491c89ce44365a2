"""A source and a target through random interleavings, lost, late and repeated messages, lost
streams, hanging writes, restarts of either or both, and a shortage of blocks. Prompts come whole or
layer by layer, as they are or as records of a codec; some handoffs move a sequence that decodes on
meanwhile, some fetch what the source has cached.

What must hold whatever happens:
- only blocks with just the right contents are ever adopted;
- a write lands only in blocks that are reserved, or in quarantine, for its own handoff;
- every block has one owner at a time, and none is lost;
- never do both workers speak for one attempt;
- every handoff ends, once, within its deadlines.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from baton.core.errors import HandoffError
from baton.core.handoff import MoveStopped, SourceOutput
from baton.core.request import FinishReason
from baton.transfer import state
from baton.transfer.base import WriteResult
from baton.transfer.fetching import ATTEMPT
from baton.transfer.source_state import SourceHandoff
from baton.transfer.target_state import TargetHandoff
from baton.v1 import transfer_pb2
from fakes.handoff_world import (
    BLOCKS,
    CODEC,
    GROWTH,
    LEAPS_S,
    LIFETIME_S,
    MOST_BLOCKS,
    POOL,
    SETTINGS,
    SOURCE,
    Process,
    World,
    checksums,
)
from fakes.transfer import FakeHost, due_of, hashes_of, make_request


class Pair(World):
    """What may happen, in any order."""

    @initialize(reconnects=st.booleans(), encodes=st.booleans(), decodes=st.booleans())
    def choose(self, reconnects: bool, encodes: bool, decodes: bool) -> None:
        self.reconnects_at_the_end = reconnects
        self.source_encodes, self.target_decodes = encodes, decodes

    # --- submissions and the source's engine ---

    @precondition(lambda self: len(self.requests) < 12)
    @rule(at_once=st.integers(0, 5).map(lambda n: n < 5), moves=st.booleans())
    def submit(self, at_once: bool, moves: bool) -> None:
        number = len(self.requests)
        handoff_id = bytes([number]) * 16
        request = make_request(10, seed=number, deadline=self.now + LIFETIME_S)
        self.requests[handoff_id] = request
        self.progress[handoff_id] = None
        if moves:
            self.moves.add(handoff_id)
        identity = state.Identity(handoff_id, 1, self.source.epoch, self.target.epoch)
        source = SourceHandoff(identity, {0}, request.deadline, SETTINGS)
        self.source.machines[handoff_id] = (("s", number), source)
        self.unsubmitted.append((identity, request, number))
        if at_once:
            self.submit_to_target()

    @precondition(lambda self: len(self.requests) < 12)
    @rule(num_lent=st.integers(0, BLOCKS - 1))
    def fetch(self, num_lent: int) -> None:
        """The target asks for a prompt's full blocks, of which the source has the first."""
        number = len(self.requests)
        handoff_id = bytes([number]) * 16
        request = make_request(10, seed=number, deadline=self.now + SETTINGS.fetch_wait_s)
        self.requests[handoff_id] = request
        self.progress[handoff_id] = BLOCKS
        self.fetches[handoff_id] = num_lent
        hashes = hashes_of(request)
        ids = self.ids(handoff_id, 0, num_lent)
        self.source.host.cache.update(zip(hashes, ids, strict=False))
        identity = state.Identity(handoff_id, ATTEMPT, self.source.epoch, self.target.epoch)
        wanted = transfer_pb2.Fetch(group=0, hashes=b"".join(hashes))
        machine = TargetHandoff(identity, (), 1, request.deadline, SETTINGS, self.now, wanted)
        self.target.machines[handoff_id] = (("t", number), machine)
        self.feed("target", handoff_id, state.PeerUp())

    @precondition(lambda self: self.unsubmitted)
    @rule()
    def submit_to_target(self) -> None:
        identity, request, number = self.unsubmitted.pop(0)
        if identity.target_epoch != self.target.epoch:
            return
        machine = TargetHandoff(identity, {0}, 1, request.deadline, SETTINGS, self.now)
        self.target.machines[identity.handoff_id] = (("t", number), machine)
        if identity.source_epoch != self.source.epoch:
            self.feed("target", identity.handoff_id, state.PeerDead())
        for message in self.target.parking.take(identity.handoff_id, SOURCE):
            self.feed("target", identity.handoff_id, state.Received(message))

    @precondition(lambda self: self.source.machines)
    @rule(
        count=st.integers(1, BLOCKS),
        ended=st.integers(0, 3).map(lambda n: n == 3),
        num_parts=st.integers(1, 3),
    )
    def compute(self, count: int, ended: bool, num_parts: int) -> None:
        for handoff_id in list(self.source.machines):
            self.compute_one(handoff_id, count, ended, num_parts)

    def compute_one(self, handoff_id: bytes, count: int, ended: bool, num_parts: int) -> None:
        done = self.progress[handoff_id]
        moves = handoff_id in self.moves
        if done is None:
            due = due_of(("s", 0), self.requests[handoff_id])
            self.progress[handoff_id] = 0
            num_blocks = (MOST_BLOCKS,) if moves else due.num_blocks
            growth = GROWTH if moves else 0
            codecs = (CODEC,) if self.source_encodes and not moves else ()
            self.feed(
                "source",
                handoff_id,
                state.Due(due.num_tokens, due.hashes, num_blocks, growth, codecs),
            )
        elif moves and done < BLOCKS - 1:
            # The last block of a running sequence is not full.
            count = min(count, BLOCKS - 1 - done)
            self.progress[handoff_id] = done + count
            self.feed(
                "source",
                handoff_id,
                state.Ready((done,), (self.ids(handoff_id, done, done + count),), None),
            )
        elif not moves and done < BLOCKS:
            end = self.progress[handoff_id] = min(done + count, BLOCKS)
            outputs = {0: SourceOutput((7,), FinishReason.STOP if ended else None)}
            ids = (self.ids(handoff_id, done, end),)
            if end < BLOCKS:
                self.feed("source", handoff_id, state.Ready((done,), ids, None))
                return
            for part in range(num_parts):
                known = outputs if part == num_parts - 1 else None
                ready = state.Ready((done,), ids, known, part, num_parts)
                self.feed("source", handoff_id, ready)

    def ids(self, handoff_id: bytes, first: int, end: int) -> tuple[int, ...]:
        """A source's block ids tell which request and index they hold."""
        seed = self.requests[handoff_id].seed
        return tuple(100 * seed + i for i in range(first, end))

    @precondition(lambda self: self.stops_wanted)
    @rule(num_new=st.integers(1, GROWTH), ended=st.integers(0, 3).map(lambda n: n == 3))
    def moved_sequence_stops(self, num_new: int, ended: bool) -> None:
        handoff_id = self.stops_wanted.pop(0)
        # KV is there for all tokens but the last.
        num_tokens = len(self.requests[handoff_id].prompt) + num_new - 1
        end = self.grown[handoff_id] = -(-num_tokens // 4)
        done = self.progress[handoff_id]
        assert done is not None and done < BLOCKS
        self.progress[handoff_id] = BLOCKS
        hashes = tuple(bytes([i]) * 16 for i in range(2, num_tokens // 4))
        output = SourceOutput(tuple(range(num_new)), FinishReason.STOP if ended else None)
        ids = self.ids(handoff_id, done, end)
        stop = MoveStopped(("s", 0), (done,), (ids,), (hashes,), {0: output})
        self.feed("source", handoff_id, state.Stopped(stop))

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
        self.land_all(write, corrupt=how == "corrupt")
        if write.told:
            self.written(write, WriteResult((), 0, error="timed out, then landed"))
        else:
            self.written(write, WriteResult(checksums(write), BLOCKS))

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

    @precondition(lambda self: self.wire["target"] or self.wire["source"])
    @rule(data=st.data(), how=st.sampled_from(["late", "late", "lost", "twice"]))
    def deliver_one(self, data, how: str) -> None:
        """One message overtakes those before it, gets lost, or comes now and again later."""
        side = data.draw(st.sampled_from([s for s in ("target", "source") if self.wire[s]]))
        wire = self.wire[side]
        event = wire.pop(data.draw(st.integers(0, len(wire) - 1)))
        if how != "lost":
            self.receive(side, event)
        if how == "twice":
            self.wire[side].append(event)

    @precondition(lambda self: self.connected and self.source.machines)
    @rule()
    def nothing_goes_wrong(self) -> None:
        """For a moment, so that some handoffs get to their adoption."""
        for handoff_id in list(self.source.machines):
            self.compute_one(handoff_id, BLOCKS, ended=False, num_parts=2)
        self.settle()
        while self.stops_wanted:
            self.moved_sequence_stops(num_new=3, ended=False)

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
            self.both_crash,
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
        self.now += data.draw(st.sampled_from(LEAPS_S))
        self.tick()

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
        self.wire_after_a_crash(data)
        self.target.parking.forget(SOURCE)
        self.feed_all("target", state.PeerLost("crashed"))
        self.feed_all("target", state.PeerDead())
        self.connected = True

    def wire_after_a_crash(self, data) -> None:
        """Messages go with their stream; those that were read already may be looked at late."""
        if not data.draw(st.booleans()):
            self.wire = {"target": [], "source": []}

    def target_crashes(self, data) -> None:
        self.in_flight.clear()
        self.verifies.clear()
        self.memory.clear()
        self.partly.clear()
        self.wire_after_a_crash(data)
        self.target = Process(self._epoch(), FakeHost(POOL))
        self.feed_all("source", state.PeerLost("crashed"))
        self.feed_all("source", state.PeerDead())
        self.connected = True

    def both_crash(self, data) -> None:
        self.target_crashes(data)
        self.source_crashes(data)

    def target_recreates_its_agent(self, data) -> None:
        fenced = data.draw(st.booleans())
        if fenced:
            self.agent += 1
        self.feed_all("target", state.Recreated(fenced))

    def source_recreates_its_agent(self, data) -> None:
        self.feed_all("source", state.Recreated(True))


TestPair = Pair.TestCase
TestPair.settings = settings(
    derandomize=True, deadline=None, max_examples=500, stateful_step_count=50
)
