"""A running sequence leaves for another engine, or tries to: every way that this can go."""

from __future__ import annotations

import dataclasses

import pytest

from baton.core.errors import HandoffError, InvalidRequestError, UnsupportedError
from baton.core.request import FinishReason
from fakes.engine_moves import GROWTH, Mover, decoding, pinned_contents
from fakes.engines import Driver, alone, mixed_requests, prompt, request

KEY = ("s", 0)
LONG = request(prompt(21), max_tokens=60, temperature=1.0)


def moving(num_tokens: int = 7, *, lag: int = 0, growth: int = GROWTH, **settings: int) -> Mover:
    """Offered, with the full blocks of `num_tokens` tokens of output announced."""
    source = Driver(**settings)
    decoding(source, KEY, LONG, num_tokens)
    mover = Mover(source, Driver(), KEY)
    mover.begin(lag=lag, growth=growth)
    return mover


def stopped(**how: int) -> Mover:
    mover = moving(**how)
    assert mover.grant()
    for _ in range(2):
        mover.step()
    mover.ask_to_stop()
    assert mover.stop is not None
    return mover


def finish(mover: Mover) -> None:
    """Run both to the end; the answer is as if it had never moved."""
    mover.source.run()
    mover.target.run()
    mover.source.assert_all_free()
    mover.target.assert_all_free()
    assert mover.answer() == alone([mover.request])[0][0]


def test_offer_names_what_the_target_has_and_room_to_grow() -> None:
    mover = moving(7)
    assert mover.due.num_tokens == 28
    assert mover.due.growth_tokens == GROWTH
    assert len(mover.due.hashes[0]) == 7
    assert mover.due.num_blocks == (10,)
    # The last of these tokens is not computed yet.
    assert len(mover.ready[0].block_ids[0]) == 6


@pytest.mark.parametrize("num_tokens", range(1, 9))
@pytest.mark.parametrize("lag", [0, 1, 5])
def test_moved_sequence_continues_exactly(num_tokens: int, lag: int) -> None:
    if lag > num_tokens:
        return
    mover = stopped(num_tokens=num_tokens, lag=lag)
    mover.hand_over()
    assert mover.source.engine.load().num_running == 0
    finish(mover)


@pytest.mark.parametrize("sizes", [(4, 8), (3, 5)])
def test_groups_of_other_block_sizes_move_too(sizes: tuple[int, int]) -> None:
    for num_tokens in range(1, 12):
        source = Driver(block_sizes=sizes)
        decoding(source, KEY, LONG, num_tokens)
        mover = Mover(source, Driver(block_sizes=sizes), KEY)
        mover.begin()
        assert mover.grant()
        mover.step()
        mover.ask_to_stop()
        mover.hand_over()
        finish(mover)


def test_it_decodes_on_while_it_is_copied() -> None:
    mover = moving()
    mover.grant()
    before = len(mover.source.tokens[(KEY, 0)])
    for _ in range(6):
        mover.step()
    assert len(mover.source.tokens[(KEY, 0)]) == before + 6
    mover.ask_to_stop()
    mover.hand_over()
    finish(mover)


def test_stop_waits_for_a_token_to_hand_over() -> None:
    mover = moving()
    mover.grant()
    mover.ask_to_stop()
    assert mover.stop is None
    mover.step()
    assert mover.stop is not None and len(mover.output.tokens) == 1
    mover.hand_over()
    finish(mover)


def test_it_stops_by_itself_when_its_room_is_used_up() -> None:
    mover = moving(growth=5)
    mover.grant()
    for _ in range(5):
        assert mover.stop is None
        mover.step()
    assert mover.stop is not None and len(mover.output.tokens) == 5
    assert not mover.source.engine.has_work
    mover.hand_over()
    finish(mover)


def test_without_a_grant_it_never_stops() -> None:
    mover = moving(growth=5)
    for _ in range(5):
        mover.step()
    assert mover.stop is None and "room" in str(mover.unmoved)
    mover.source.engine.release(KEY)
    mover.source.run()
    assert mover.source.answers(KEY) == alone([LONG])[0]
    mover.source.assert_all_free()


def test_unused_room_is_free_after_adoption() -> None:
    mover = stopped()
    mover.hand_over()
    mover.target.step()
    # 21 of prompt, 7 + 2 of output, and the token of this step's compute.
    assert mover.target.engine.load().free_blocks == mover.target.num_blocks - 8
    finish(mover)


def test_moved_blocks_are_a_prefix_hit_on_both_sides() -> None:
    mover = stopped()
    mover.hand_over()
    full = set(mover.committed()[1][0])
    assert full <= set(mover.source.engine.cached_hashes()[0])
    assert full <= set(mover.target.engine.cached_hashes()[0])


def test_blocks_that_the_target_has_are_not_sent() -> None:
    mover = moving()
    decoding(mover.target, ("other", 0), request(LONG.prompt, max_tokens=2), 1)
    mover.grant()
    assert mover.reserved[0].skip == {0, 1, 2, 3, 4}
    mover.step()
    mover.ask_to_stop()
    mover.hand_over()
    finish(mover)


def test_there_and_back_again() -> None:
    first = stopped()
    first.hand_over()
    for _ in range(3):
        first.target.step()
    back = Mover(first.target, first.source, first.heir)
    back.source.requests[first.heir] = first.wanted
    back.begin()
    assert back.grant()
    assert len(back.reserved[0].skip) >= 7, "what it left behind is still there"
    back.step()
    back.ask_to_stop()
    back.hand_over()
    back.target.run()
    theirs = back.target.tokens[(back.heir, 0)]
    assert first.answer()[: back.position] + theirs == alone([LONG])[0][0]
    first.source.assert_all_free()
    first.target.assert_all_free()


# --- it comes to nothing ---


@pytest.mark.parametrize("released_first", [True, False])
def test_failed_while_it_copies_it_never_notices(released_first: bool) -> None:
    mover = moving()
    mover.grant()
    mover.step()
    if released_first:
        mover.source.engine.release(KEY)
    mover.fail()
    mover.source.run()
    mover.source.engine.release(KEY)
    assert mover.source.answers(KEY) == alone([LONG])[0]
    mover.source.assert_all_free()


@pytest.mark.parametrize("num_tokens", range(4, 9))
def test_failed_after_its_stop_it_goes_on_and_leaves_the_tail_alone(num_tokens: int) -> None:
    """A hanging write may read the announced blocks until `release`, whatever happens here."""
    mover = stopped(num_tokens=num_tokens)
    assert mover.stop is not None
    tail = pinned_contents(mover.source, mover.stop)
    mover.fail()
    mover.source.run()
    assert pinned_contents(mover.source, mover.stop) == tail
    assert mover.source.engine.load().free_blocks < mover.source.num_blocks
    mover.source.engine.release(KEY)
    assert mover.source.answers(KEY) == alone([LONG])[0]
    mover.source.assert_all_free()


def test_stopped_sequence_keeps_its_slot() -> None:
    mover = stopped(max_sequences=1)
    mover.source.add(("s", 1), request(prompt(5), max_tokens=2))
    assert mover.step().rows == []
    mover.fail()
    mover.source.engine.release(KEY)
    assert [row.key for row in mover.step().rows] == [KEY]
    mover.source.run()
    mover.source.assert_all_free()


def test_it_can_be_moved_again_once_the_last_try_has_settled() -> None:
    mover = stopped()
    mover.fail()
    with pytest.raises(HandoffError, match="settled"):
        mover.source.engine.migrate(KEY, 9, GROWTH)
    mover.source.engine.release(KEY)
    again = Mover(mover.source, mover.target, KEY)
    again.heir = ("again", 0)
    again.begin()
    assert again.grant()
    again.step()
    again.ask_to_stop()
    again.hand_over()
    finish(again)


# --- it ends by itself ---


@pytest.mark.parametrize("granted", [True, False])
def test_finish_ends_the_move(granted: bool) -> None:
    ending = dataclasses.replace(LONG, sampling=dataclasses.replace(LONG.sampling, max_tokens=10))
    source = Driver()
    decoding(source, KEY, ending, 7)
    mover = Mover(source, Driver(), KEY)
    assert mover.begin().growth_tokens == 3
    if granted:
        mover.grant()
    while source.engine.has_work:
        mover.step()
    if granted:
        # It may be stopped one token before its end, as there is no room for more.
        assert mover.stop is not None
    assert source.finished[(KEY, 0)] is FinishReason.LENGTH
    assert mover.stop is not None and mover.output.finish is FinishReason.LENGTH
    assert source.engine.load().free_blocks < source.num_blocks, "a write may read on"
    source.engine.release(KEY)
    source.assert_all_free()
    if granted:
        mover.target.engine.unreserve(mover.heir, quarantine=False)
        mover.target.assert_all_free()


def test_abort_leaves_only_what_may_be_read() -> None:
    for mover in (moving(), stopped()):
        source = mover.source
        source.engine.abort(KEY)
        source.engine.check_integrity()
        assert not source.engine.has_work
        assert source.engine.load().free_blocks < source.num_blocks
        source.engine.release(KEY)
        source.assert_all_free()


# --- others want the blocks ---


def test_moving_sequence_is_not_preempted_for_others() -> None:
    source = Driver(kv_blocks=12)
    decoding(source, ("old", 0), request(prompt(4, 5), max_tokens=40), 1)
    decoding(source, KEY, LONG, 3)
    mover = Mover(source, Driver(), KEY)
    mover.begin(growth=40)
    mover.grant()
    for _ in range(35):
        if mover.stop is None:
            mover.step()
    assert mover.stop is not None, "it stops when it finds no block"
    assert len(mover.output.tokens) < 40
    mover.hand_over()
    source.run()
    mover.target.run()
    assert mover.answer() == alone([LONG])[0][0]
    assert source.answers(("old", 0)) == alone([source.requests[("old", 0)]])[0]


def test_ungranted_move_gives_up_when_blocks_are_short() -> None:
    source = Driver(kv_blocks=8)
    decoding(source, KEY, LONG, 3)
    mover = Mover(source, Driver(), KEY)
    mover.begin(growth=40)
    source.add(("s", 1), request(prompt(4, 1), max_tokens=8))
    for _ in range(12):
        if mover.unmoved is None:
            mover.step()
    assert "no free KV block" in str(mover.unmoved)
    source.engine.release(KEY)
    source.engine.check_integrity()


# --- refusals ---


def test_what_cannot_be_moved() -> None:
    driver = Driver(max_batch_tokens=16)
    with pytest.raises(HandoffError):
        driver.engine.migrate(KEY, 0, GROWTH)
    decoding(driver, ("n", 0), request(prompt(5), n=2, max_tokens=30), 2)
    with pytest.raises(UnsupportedError):
        driver.engine.migrate(("n", 0), 1, GROWTH)
    driver.add(KEY, LONG)
    with pytest.raises(HandoffError, match="not being decoded"):
        driver.engine.migrate(KEY, 0, GROWTH)
    driver.add(("source", 0), LONG, handoff=True)
    driver.step()
    with pytest.raises(HandoffError):
        driver.engine.migrate(("source", 0), 0, GROWTH)
    while len(driver.tokens[(KEY, 0)]) < 9:
        driver.step()
    for position, growth in ((10, GROWTH), (2, 7)):
        with pytest.raises(HandoffError, match="output tokens"):
            driver.engine.migrate(KEY, position, growth)
    driver.engine.check_integrity()


def test_target_refuses_an_offer_of_other_tokens_or_room() -> None:
    mover = moving()
    due, target = mover.due, mover.target
    target.expect(mover.heir, mover.wanted)

    def reserve(**other: object) -> None:
        offer = dataclasses.replace(due, **other)
        target.engine.reserve(
            mover.heir,
            mover.wanted,
            offer.num_tokens,
            offer.hashes,
            offer.num_blocks,
            offer.growth_tokens,
        )

    for other in (
        {"growth_tokens": 0},
        {"growth_tokens": 100},
        {"num_blocks": (7,)},
        {"num_tokens": 27},
        {"hashes": (due.hashes[0][:-1],)},
    ):
        with pytest.raises(InvalidRequestError):
            reserve(**other)
    target.assert_all_free()


def test_target_refuses_a_commit_that_cannot_be() -> None:
    mover = stopped()
    outputs, hashes, counts = mover.committed()
    check = mover.target.engine.check_commit
    check(mover.heir, outputs, hashes, counts)
    tokens = outputs[0]
    for wrong in (
        {0: ()},
        {0: (*tokens[:-1], 600)},
        {0: tokens * 20},
        {},
        {1: tokens},
    ):
        with pytest.raises(HandoffError):
            check(mover.heir, wrong, hashes, counts)
    with pytest.raises(HandoffError, match="blocks"):
        check(mover.heir, outputs, hashes, (counts[0] - 1,))
    mover.hand_over()
    finish(mover)


def test_target_refuses_hashes_of_other_tokens() -> None:
    mover = moving(num_tokens=6)
    mover.grant()
    for _ in range(6):
        mover.step()
    mover.ask_to_stop()
    outputs, hashes, counts = mover.committed()
    assert len(hashes[0]) > len(mover.due.hashes[0]), "blocks became full on the way"
    other = {0: (outputs[0][0] + 1, *outputs[0][1:])}
    with pytest.raises(HandoffError, match="hashes"):
        mover.target.engine.check_commit(mover.heir, other, hashes, counts)
    mover.hand_over()
    finish(mover)


def test_many_sequences_move_while_others_run() -> None:
    requests = [
        dataclasses.replace(r, sampling=dataclasses.replace(r.sampling, max_tokens=30))
        for r in mixed_requests(18)
        if r.num_choices == 1
    ]
    source, target = Driver(kv_blocks=160), Driver(kv_blocks=160)
    movers = []
    for i, wanted in enumerate(requests):
        source.add(("s", i), wanted)
    for _ in range(12):
        source.step()
    for i in range(0, len(requests), 2):
        mover = Mover(source, target, ("s", i))
        mover.begin()
        assert mover.grant()
        movers.append(mover)
    for turn in range(10):
        out = source.step()
        for mover in movers:
            mover.hear(out)
        if turn < len(movers):
            movers[turn].ask_to_stop()
            movers[turn].hand_over()
        if target.engine.has_work:
            target.step()
    source.run()
    target.run()
    answers = {m.key: m.answer() for m in movers}
    for i, expected in enumerate(alone(requests)):
        key = ("s", i)
        assert answers.get(key, source.tokens[(key, 0)]) == expected[0]
    source.assert_all_free()
    target.assert_all_free()
