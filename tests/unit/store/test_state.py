"""The embedded store's contents against a model, and its bounds."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from baton.store.base import WatchEvent
from baton.store.state import StoreState, Watcher

KEYS = st.sampled_from(["a", "w/a", "w/b"])
VALUES = st.sampled_from([b"x", b"-3"])
TTLS = st.none() | st.integers(1, 8).map(lambda quarters: quarters / 4)
MAX_EVENTS = 3


class Follower:
    """A client's side of a watch: what it knows from events alone."""

    def __init__(self, state: StoreState, now: float, prefix: str) -> None:
        self.prefix = prefix
        self.known: dict[str, bytes] = {}
        self.num_wakes = 0
        self.watcher = self._watch(state, now)

    def _watch(self, state: StoreState, now: float) -> Watcher:
        self.known.clear()
        return state.watch(now, self.prefix, self._woken)

    def _woken(self) -> None:
        self.num_wakes += 1

    def read(self, state: StoreState, now: float) -> None:
        if self.watcher.lost:
            assert not self.watcher.events
            state.unwatch(self.watcher)
            self.watcher = self._watch(state, now)
        while self.watcher.events:
            event = self.watcher.events.popleft()
            assert event.key.startswith(self.prefix) or event.kind == "synced"
            if event.kind == "put":
                # Renewals with the value that is there are not told.
                assert self.known.get(event.key) != event.value
                self.known[event.key] = event.value
            elif event.kind != "synced":
                del self.known[event.key]


class StoreMachine(RuleBasedStateMachine):
    """Model: a dict of values and deadlines."""

    def __init__(self) -> None:
        super().__init__()
        self.state = StoreState(max_watch_events=MAX_EVENTS)
        self.now = 0.0
        self.model: dict[str, tuple[bytes, float | None]] = {}
        self.followers: list[Follower] = []

    @initialize()
    def follow_all(self) -> None:
        self.followers.append(Follower(self.state, self.now, ""))

    def live(self) -> dict[str, bytes]:
        return {k: v for k, (v, due) in self.model.items() if due is None or due > self.now}

    def due(self, ttl_s: float | None) -> float | None:
        return None if ttl_s is None else self.now + ttl_s

    @rule(key=KEYS, value=VALUES, ttl_s=TTLS)
    def put(self, key: str, value: bytes, ttl_s: float | None) -> None:
        self.state.put(self.now, key, value, ttl_s)
        self.model[key] = (value, self.due(ttl_s))

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        assert self.state.delete(self.now, key) == (key in self.live())
        self.model.pop(key, None)

    @rule(quarters=st.integers(1, 6))
    def pass_time(self, quarters: int) -> None:
        self.now += quarters / 4

    @rule()
    def expire(self) -> None:
        self.state.expire(self.now)

    @rule(prefix=st.sampled_from(["", "w/", "a", "none"]))
    @precondition(lambda self: len(self.followers) < 4)
    def watch(self, prefix: str) -> None:
        self.followers.append(Follower(self.state, self.now, prefix))

    @rule()
    @precondition(lambda self: len(self.followers) > 1)
    def unwatch(self) -> None:
        self.state.unwatch(self.followers.pop().watcher)

    @rule()
    def followers_read(self) -> None:
        self.state.expire(self.now)
        for follower in self.followers:
            follower.read(self.state, self.now)
            live = self.live()
            assert follower.known == {k: live[k] for k in live if k.startswith(follower.prefix)}

    @rule(prefix=st.sampled_from(["", "w/"]), key=KEYS)
    def look(self, prefix: str, key: str) -> None:
        wanted = {k: v for k, v in sorted(self.live().items()) if k.startswith(prefix)}
        assert self.state.get(self.now, key) == self.live().get(key)
        assert list(self.state.list(self.now, prefix).items()) == list(wanted.items())

    @invariant()
    def the_next_expiry_is_the_models(self) -> None:
        due = [due for _, due in self.model.values() if due is not None]
        told = self.state.next_expiry()
        if told is not None and told <= self.now:
            assert told in due
        else:
            assert told == min((d for d in due if d > self.now), default=None)

    @invariant()
    def queues_are_bounded(self) -> None:
        assert self.state.num_watchers() == len(self.followers)
        for follower in self.followers:
            # The entries at the start, `synced`, and the bound.
            assert len(follower.watcher.events) <= 3 + 1 + MAX_EVENTS


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    derandomize=True, deadline=None, max_examples=60, stateful_step_count=40
)


def test_an_entry_is_gone_at_the_instant_of_its_deadline() -> None:
    state = StoreState()
    state.put(0.0, "k", b"", 10.0)
    assert state.get(9.999, "k") == b""
    assert state.get(10.0, "k") is None


def test_a_renewed_entry_outlives_its_first_deadline() -> None:
    state = StoreState()
    state.put(0.0, "renewed", b"", 10.0)
    state.put(0.0, "kept", b"", 10.0)
    state.put(9.0, "renewed", b"", 10.0)
    state.put(9.0, "kept", b"", None)
    assert state.list(10.0, "") == {"renewed": b"", "kept": b""}
    assert state.next_expiry() == 19.0
    assert state.list(19.0, "") == {"kept": b""}


def test_a_renewal_is_not_told() -> None:
    state = StoreState()
    watcher = state.watch(0.0, "", lambda: None)
    watcher.events.clear()
    for now in range(5):
        state.put(float(now), "k", b"x", 10.0)
    assert list(watcher.events) == [WatchEvent("put", "k", b"x")]


def test_a_thousand_renewals_keep_one_deadline_or_few() -> None:
    state = StoreState()
    for i in range(10_000):
        state.put(float(i), "k", b"", 10.0)
    assert len(state._deadlines) < 100
    assert state.next_expiry() == 9_999 + 10.0


def test_a_watcher_that_fell_behind_is_lost_and_costs_nothing_more() -> None:
    state = StoreState(max_watch_events=2)
    wakes: list[None] = []
    watcher = state.watch(0.0, "", lambda: wakes.append(None))
    for i in range(10):
        state.put(0.0, f"k{i}", b"", None)
    assert watcher.lost
    assert not watcher.events
    assert wakes


def test_a_watch_of_many_entries_is_not_lost_at_its_start() -> None:
    state = StoreState(max_watch_events=2)
    for i in range(100):
        state.put(0.0, f"k{i:02}", b"", None)
    watcher = state.watch(0.0, "k", lambda: None)
    assert not watcher.lost
    assert len(watcher.events) == 101
    assert watcher.events[-1] == WatchEvent("synced")
