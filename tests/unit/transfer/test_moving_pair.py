"""The random interleavings of `test_handoff_pair` for moves, most of which get as far as a commit.

There mishaps find few handoffs at the stage that matters most here: committed, without a verdict,
when the sequence must neither go on at its source nor be lost.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from baton.transfer.source_state import SourceState
from unit.transfer.test_handoff_pair import Pair


class LateMishaps(Pair):
    @precondition(lambda self: self.connected and len(self.requests) < 12)
    @rule(goal=st.sampled_from([SourceState.SENDING, *[SourceState.COMMITTED] * 3]))
    def get_far(self, goal: SourceState) -> None:
        """Move a sequence without a hitch up to here."""
        self.submit(at_once=True, moves=True)
        handoff_id = max(self.requests)
        _, machine = self.source.machines[handoff_id]
        for _ in range(8):
            if machine.state is goal or machine.closed:
                return
            self.compute_one(handoff_id, 2, ended=False, num_parts=1)
            self.deliver(rounds=1, twice=False)
            while self.in_flight:
                self.write_ends_now(self.in_flight.pop(0))
            if handoff_id in self.stops_wanted:
                self.stops_wanted.remove(handoff_id)
                self.stops_wanted.insert(0, handoff_id)
                self.moved_sequence_stops(num_new=1, ended=False)


TestLateMishaps = LateMishaps.TestCase
TestLateMishaps.settings = settings(
    derandomize=True, deadline=None, max_examples=100, stateful_step_count=40
)
