"""Blocks that are sent part by part: what the ledger sends, in which order, and when it is done."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from baton.transfer.base import BlockWrite, WriteResult
from baton.transfer.messages import grant_body
from baton.transfer.source_state import SourceState
from baton.transfer.state import Ready, Send, Write, Written
from baton.transfer.write_ledger import WriteLedger
from baton.v1 import transfer_pb2
from fakes.handoff_messages import AGENT, LIVE, RESERVED, received, written
from fakes.source_situations import offered


def part(group: int, index: int, p: int, num_parts: int = 4) -> BlockWrite:
    return BlockWrite(group, (10 + index,), (20 + index,), p, num_parts)


def ledger_of(num_blocks: int, *, granted: bool) -> WriteLedger:
    ledger = WriteLedger((num_blocks,))
    if granted:
        grant_all(ledger)
    return ledger


def grant_all(ledger: WriteLedger) -> None:
    ledger.granted[0].blocks.update({i: (20 + i, 1) for i in range(ledger.num_blocks[0])})


def sent(ledger: WriteLedger) -> tuple[BlockWrite, ...]:
    write = ledger.take_sendable()
    return () if write is None else write.writes


def test_granted_blocks_go_part_by_part() -> None:
    ledger = ledger_of(1, granted=True)
    for p in range(4):
        ledger.add_ready((0,), ((10,),), p, 4)
        assert sent(ledger) == (part(0, 0, p),)
        assert not ledger.complete


def test_blocks_granted_when_they_are_whole_are_sent_whole() -> None:
    ledger = ledger_of(2, granted=False)
    for p in range(4):
        ledger.add_ready((0,), ((10,),), p, 4)
        assert sent(ledger) == ()
    ledger.add_ready((1,), ((11,),))
    grant_all(ledger)
    assert sent(ledger) == (BlockWrite(0, (10, 11), (20, 21)),)


def test_a_grant_in_between_catches_up() -> None:
    ledger = ledger_of(1, granted=False)
    ledger.add_ready((0,), ((10,),), 0, 4)
    ledger.add_ready((0,), ((10,),), 1, 4)
    grant_all(ledger)
    assert sent(ledger) == (part(0, 0, 0), part(0, 0, 1))
    ledger.add_ready((0,), ((10,),), 2, 4)
    ledger.add_ready((0,), ((10,),), 3, 4)
    assert sent(ledger) == (part(0, 0, 2), part(0, 0, 3))


def test_failed_part_is_sent_once_more_and_no_oftener() -> None:
    ledger = ledger_of(1, granted=True)
    ledger.add_ready((0,), ((10,),), 0, 2)
    first = ledger.take_sendable()
    ledger.add_ready((0,), ((10,),), 1, 2)
    last = ledger.take_sendable()
    assert first is not None and last is not None
    broken = WriteResult((), 0, error="broken")
    ledger.settle(last.write_id, WriteResult(((7,),), 4))
    ledger.settle(first.write_id, broken)
    again = ledger.again(first.write_id)
    assert again is not None and again.writes == first.writes and not ledger.complete
    ledger.settle(again.write_id, broken)
    assert ledger.again(again.write_id) is None and not ledger.complete


def test_source_commits_when_the_last_part_is_written() -> None:
    machine = offered()
    machine.handle(received("grant", grant_body(RESERVED, AGENT)), 1.0)
    ids = ((10, 11, 12),)
    (early,) = machine.handle(Ready((0,), ids, None, 0, 2), 2.0)
    (late,) = machine.handle(Ready((0,), ids, LIVE, 1, 2), 3.0)
    assert isinstance(early, Write) and isinstance(late, Write)
    assert machine.handle(Written(early.write_id, WriteResult(((),), 50), at=2.5), 3.5) == []
    (commit,) = machine.handle(written(late.write_id, at=3.25), 4.0)
    assert isinstance(commit, Send)
    assert list(commit.message.commit.shards[0].groups[0].checksum) == [1, 2, 3]
    assert machine.state is SourceState.COMMITTED
    _, report = machine.handle(received("accepted", transfer_pb2.Accepted()), 5.0)
    timing = report.timing
    assert (timing.num_bytes, timing.hidden_bytes) == (150, 50)
    assert (timing.exposed_s, timing.transfer_s) == (0.25, 0.75)


@given(st.data())
def test_every_part_of_every_block_is_written_in_order_whatever_comes_when(data) -> None:
    chunks = data.draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1))
    total = sum(count for count, _ in chunks)
    skipped = data.draw(st.sets(st.integers(0, total - 1)))
    ledger = WriteLedger((total,))
    # What becomes ready, in order.
    steps, first = [], 0
    for count, num_parts in chunks:
        ids = tuple(range(100 + first, 100 + first + count))
        steps += [(first, ids, p, num_parts) for p in range(num_parts)]
        first += count
    grants = data.draw(st.permutations(range(total)))
    # Per block, how much of it (of 12 twelfths) is written, and where the next part begins.
    begun: dict[int, int] = dict.fromkeys(range(total), 0)
    landed: dict[int, list[tuple[int, int]]] = {i: [] for i in range(total)}
    in_flight: list[Write] = []
    while steps or grants or in_flight or not ledger.complete:
        left = {"ready": steps, "grant": grants, "end": in_flight}
        moves = [name for name, of_it in left.items() if of_it]
        assert moves, "nothing left to do, and not complete"
        match data.draw(st.sampled_from(moves)):
            case "ready":
                start, ids, p, num_parts = steps.pop(0)
                ledger.add_ready((start,), (ids,), p, num_parts)
            case "grant":
                index, *grants = grants
                if index in skipped:
                    ledger.granted[0].skip.add(index)
                else:
                    ledger.granted[0].blocks[index] = (200 + index, 1)
            case "end":
                write = in_flight.pop(data.draw(st.integers(0, len(in_flight) - 1)))
                if data.draw(st.integers(0, 4)) == 0:
                    ledger.settle(write.write_id, WriteResult((), 0, error="broken"))
                    again = ledger.again(write.write_id)
                    if again is None:
                        return
                    in_flight.append(again)
                    continue
                sums = []
                for w in write.writes:
                    for block in w.local:
                        span = (12 * w.part // w.num_parts, 12 * (w.part + 1) // w.num_parts)
                        landed[block - 100].append(span)
                    sums.append(w.local if w.part == w.num_parts - 1 else ())
                ledger.settle(write.write_id, WriteResult(tuple(sums), 1))
        new = ledger.take_sendable()
        if new is None:
            continue
        in_flight.append(new)
        for w in new.writes:
            assert [b + 100 for b in w.local] == list(w.remote)
            for block in w.local:
                assert begun[block - 100] == 12 * w.part // w.num_parts, "parts out of order"
                begun[block - 100] = 12 * (w.part + 1) // w.num_parts
    for index, spans in landed.items():
        whole = sum(end - start for start, end in spans)
        assert whole == (0 if index in skipped else 12), "each byte is written once"
    assert ledger.checksums == [{i: 100 + i for i in range(total) if i not in skipped}]
