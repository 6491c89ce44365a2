"""The queue loses nothing, gives a key to one hand at a time, and waits as it says."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from baton_operator.rounds.queue import WorkQueue


def queue(min_interval_s: float = 0.0) -> WorkQueue[str]:
    return WorkQueue(min_interval_s, backoff_s=1.0, max_backoff_s=8.0)


def test_a_key_added_many_times_gets_one_round():
    q = queue()
    for _ in range(5):
        q.add("a", now=0)
    assert q.take(0) == "a"
    q.done("a", now=0)
    assert q.take(100) is None


def test_a_key_added_during_its_round_gets_another():
    q = queue()
    q.add("a", now=0)
    assert q.take(0) == "a"
    q.add("a", now=1)
    assert q.take(1) is None, "one round at a time"
    q.done("a", now=2)
    assert q.take(2) == "a"


def test_rounds_of_a_key_keep_their_distance():
    q = queue(min_interval_s=5)
    q.add("a", now=0)
    assert q.take(0) == "a"
    q.done("a", now=1)
    q.add("a", now=1)
    assert q.take(4.9) is None
    assert q.next_due() == 5
    assert q.take(5) == "a"


def test_what_a_round_waited_for_counts_from_when_it_was_due():
    q = queue(min_interval_s=5)
    q.add("a", now=0)
    assert q.take(3) == "a" and q.waited_s("a") == 3
    q.add("a", now=4)
    q.done("a", now=10, again_s=60)
    assert q.take(11) == "a" and q.waited_s("a") == 3, "due at 8, for the distance to the last one"
    q.done("a", now=12, again_s=60)
    assert q.take(72) == "a" and q.waited_s("a") == 0, "the wait between rounds is none of its own"


def test_failures_wait_twice_as_long_each_time_up_to_the_bound():
    q = queue()
    q.add("a", now=0)
    now, waits = 0.0, []
    for _ in range(6):
        assert q.take(now) == "a"
        waits.append(q.failed("a", now))
        now += waits[-1]
    assert waits == [1, 2, 4, 8, 8, 8]
    assert q.take(now) == "a"
    q.done("a", now)
    q.add("a", now)
    assert q.take(now) == "a"
    assert q.failed("a", now) == 1, "a round that went well ends the waiting"


def test_an_event_does_not_end_the_wait_after_a_failure_but_the_users_change_does():
    q = queue()
    q.add("a", now=0)
    assert q.take(0) == "a"
    q.failed("a", now=0, wait_s=60)
    q.add("a", now=1)
    assert q.take(59) is None
    q.add("a", now=2, urgent=True)
    assert q.take(2) == "a"


def test_a_forgotten_key_is_never_in_two_hands():
    q = queue()
    q.add("a", now=0)
    assert q.take(0) == "a"
    q.forget("a")
    q.add("a", now=1)
    assert q.take(1) is None
    q.done("a", now=2)
    assert q.take(2) == "a"


def test_a_round_that_ends_after_its_key_was_forgotten_leaves_nothing():
    q = queue()
    q.add("a", now=0)
    assert q.take(0) == "a"
    q.forget("a")
    q.done("a", now=1, again_s=1)
    assert len(q) == 0 and q.next_due() is None


KEYS = st.sampled_from("abc")


class QueueMachine(RuleBasedStateMachine):
    """Against a model that only remembers who wants a round."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = WorkQueue[str](min_interval_s=1.0, backoff_s=1.0, max_backoff_s=4.0)
        self.now = 0.0
        self.wanted: set[str] = set()
        self.running: set[str] = set()

    @rule(key=KEYS, delay=st.floats(0, 3), urgent=st.booleans())
    def add(self, key: str, delay: float, urgent: bool) -> None:
        self.queue.add(key, self.now, delay, urgent=urgent)
        self.wanted.add(key)

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        key = self.queue.take(self.now)
        if key is not None:
            assert key in self.wanted and key not in self.running
            self.wanted.discard(key)
            self.running.add(key)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), good=st.booleans(), again=st.none() | st.floats(0, 3))
    def finish(self, data: st.DataObject, good: bool, again: float | None) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        self.running.discard(key)
        if good:
            self.queue.done(key, self.now, again)
            if again is not None:
                self.wanted.add(key)
        else:
            assert self.queue.failed(key, self.now) <= 4
            self.wanted.add(key)

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.queue.forget(key)
        self.wanted.discard(key)
        if key in self.running:
            # The round goes on; nothing comes after it unless the key is added again.
            self.running.discard(key)
            self.queue.done(key, self.now)

    @invariant()
    def nothing_wanted_is_lost(self) -> None:
        assert len(self.queue) == len(self.wanted)
        idle = self.wanted - self.running
        due = self.queue.next_due()
        assert (due is not None) == bool(idle)
        # Every delay here is below this.
        assert due is None or due <= self.now + 10

    def teardown(self) -> None:
        later, left = self.now + 100, self.wanted - self.running
        taken = set()
        while (key := self.queue.take(later)) is not None:
            taken.add(key)
        assert taken == left


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestQueueMachine = QueueMachine.TestCase
