"""The books of handoffs: found by id, submission and peer, forgotten when their time is over."""

from __future__ import annotations

from baton.core.errors import CancelledRequestError
from baton.core.settings import TransferSettings
from baton.transfer import state
from baton.transfer.entries import REMEMBER_S, Entries
from baton.transfer.entry import Entry
from baton.transfer.source_state import SourceHandoff
from fakes.transfer import FakeHost, make_request

PEERS = (("decode-0", 1), ("decode-0", 2))


def entry_of(number: int, peer: int) -> Entry:
    identity = state.Identity(number.to_bytes(16, "big"), 1, 1, PEERS[peer][1])
    machine = SourceHandoff(identity, (0,), 1e9, TransferSettings())
    request = make_request(seed=number)
    return Entry(("s", number), machine, PEERS[peer], "r", request, FakeHost())


def test_each_life_of_a_peer_has_its_own() -> None:
    entries = Entries()
    first, second = entry_of(0, 0), entry_of(1, 1)
    entries.add(first)
    entries.add(second)
    assert entries.of_peer(PEERS[0]) == [first] and entries.of_peer(PEERS[1]) == [second]
    assert entries.find(first.handoff_id) is entries.find_open(("s", 0)) is first


def test_ended_handoff_answers_late_questions_for_a_while() -> None:
    entries = Entries()
    entry = entry_of(0, 0)
    entries.add(entry)
    entry.machine.handle(state.PeerDead(), 0.0)
    assert entry.machine.closed
    assert entries.end(entry, 0.0) and not entries.end(entry, 0.0)
    assert not entries.open and entries.find_open(entry.key) is None and entry.request is None
    entries.forget(REMEMBER_S - 1)
    assert entries.find(entry.handoff_id) is entry and entries.of_peer(PEERS[0]) == [entry]
    assert entries.forget(REMEMBER_S) == []
    assert entries.find(entry.handoff_id) is None and entries.of_peer(PEERS[0]) == []
    assert entries.all() == []


def test_submission_may_have_another_handoff_after_one_that_ended() -> None:
    entries = Entries()
    first = entry_of(0, 0)
    entries.add(first)
    first.machine.handle(state.ComputeFailed(CancelledRequestError("x")), 0.0)
    entries.end(first, 0.0)
    second = entry_of(1, 0)
    second.key = first.key
    entries.add(second)
    assert entries.find_open(first.key) is second
    entries.forget(REMEMBER_S)
    assert entries.find_open(first.key) is second and entries.of_peer(PEERS[0]) == [second]
