"""The source side: offers, finished blocks, holding them, the bound of ungranted ones."""

from __future__ import annotations

import dataclasses

import pytest

from baton.core.errors import DeadlineExceededError, UnsupportedError
from baton.core.handoff import BlocksReady, Key, OfferDue
from baton.core.request import FinishReason
from fakes.engines import Driver, alone, prompt, request

KEY = ("s", 0)


def test_offer_names_the_prompt_when_it_is_scheduled() -> None:
    driver = Driver()
    wanted = request(prompt(10))
    driver.add(KEY, wanted, handoff=True)
    out = driver.step()
    assert out.offers == [driver.offer_for(KEY, wanted)]
    assert out.offers[0].num_blocks == (3,)
    assert len(out.offers[0].hashes[0]) == 2


def test_full_blocks_are_ready_as_chunks_complete_and_the_tail_at_the_end() -> None:
    driver = Driver(max_batch_tokens=6)
    driver.add(KEY, request(prompt(18)), handoff=True)
    ready = [driver.step().ready for _ in range(3)]
    ids = [r.block_ids[0] for (r,) in ready]
    assert [(r.first_index, r.done) for (r,) in ready] == [
        ((0,), False),
        ((1,), False),
        ((3,), True),
    ]
    assert [len(i) for i in ids] == [1, 2, 2]
    assert len({block for part in ids for block in part}) == 5


def test_chunk_without_a_full_block_announces_nothing() -> None:
    driver = Driver(max_batch_tokens=3)
    driver.add(KEY, request(prompt(7)), handoff=True)
    assert [len(driver.step().ready) for _ in range(3)] == [0, 1, 1]


def test_first_token_of_every_choice_comes_with_the_last_blocks() -> None:
    driver = Driver()
    wanted = request(prompt(9), n=3)
    driver.add(KEY, wanted, handoff=True)
    out = driver.step()
    expected = alone([wanted])[0]
    assert [(row.choice, row.position, row.token) for row in out.rows] == [
        (choice, 0, expected[choice][0]) for choice in range(3)
    ]
    assert out.ready[0].done
    assert not driver.engine.has_work, "it computes no further"
    load = driver.engine.load()
    assert (load.num_running, load.free_blocks) == (0, 64 - 3)


def test_output_that_ends_at_its_first_token_says_so() -> None:
    driver = Driver()
    driver.add(KEY, request(prompt(9), max_tokens=1), handoff=True)
    out = driver.step()
    assert out.rows[0].finish is FinishReason.LENGTH
    assert out.ready[0].done
    assert driver.engine.load().free_blocks == 64 - 3, "held until released all the same"


def test_released_blocks_are_a_prefix_hit() -> None:
    driver = Driver()
    driver.add(KEY, request(prompt(10)), handoff=True)
    driver.step()
    driver.engine.release(KEY)
    driver.assert_all_free()
    driver.add(("s", 1), request(prompt(10)), handoff=True)
    out = driver.step()
    assert driver.cached_tokens[("s", 1)] == 8
    assert out.ready == [BlocksReady(("s", 1), (0,), out.ready[0].block_ids, done=True)]
    assert len(out.ready[0].block_ids[0]) == 3, "cached blocks are ready at once"


def test_held_blocks_are_never_taken_for_others() -> None:
    driver = Driver(kv_blocks=8)
    driver.add(KEY, request(prompt(16)), handoff=True)
    driver.step()
    driver.add(("s", 1), request(prompt(12, seed=1), max_tokens=9))
    driver.run()
    assert driver.engine.load().num_waiting == 1, "preempted, and waits for the held blocks"
    assert not driver.engine.has_work
    assert driver.errors == {}
    driver.engine.release(KEY)
    driver.run()
    assert len(driver.tokens[(("s", 1), 0)]) == 9
    driver.assert_all_free()


def test_source_is_not_preempted_in_the_middle_of_its_prompt() -> None:
    plain = request(prompt(4, seed=1), max_tokens=20)
    driver = Driver(kv_blocks=9, max_batch_tokens=3)
    driver.add(("s", 1), plain)
    while not driver.tokens[(("s", 1), 0)]:
        driver.step()
    driver.add(KEY, request(prompt(24)), handoff=True)
    ready = [r for _ in range(11) for r in driver.step().ready]
    assert sum(len(r.block_ids[0]) for r in ready) == 6
    assert ready[-1].done
    # The other, though older, had to make room for itself when it wanted a fourth block.
    assert len(driver.tokens[(("s", 1), 0)]) == 9
    assert driver.engine.load().num_waiting == 1
    driver.engine.release(KEY)
    driver.run()
    assert driver.answers(("s", 1)) == alone([plain])[0]


def test_aborted_source_stops_but_keeps_its_blocks_until_release() -> None:
    driver = Driver(max_batch_tokens=8)
    driver.add(KEY, request(prompt(30)), handoff=True)
    driver.step()
    driver.engine.abort(KEY)
    assert not driver.engine.has_work
    assert driver.engine.load().free_blocks == 64 - 8
    driver.engine.abort(KEY)
    driver.engine.release(KEY)
    driver.assert_all_free()
    driver.engine.release(KEY)


def test_source_aborted_before_it_ran_leaves_nothing() -> None:
    driver = Driver()
    driver.add(KEY, request(prompt(30)), handoff=True)
    driver.engine.abort(KEY)
    driver.assert_all_free()
    assert driver.step().offers == []


def test_source_released_while_it_computes_frees_its_blocks_at_the_end() -> None:
    driver = Driver(max_batch_tokens=8)
    driver.add(KEY, request(prompt(12)), handoff=True)
    driver.step()
    driver.engine.release(KEY)
    assert driver.engine.load().free_blocks == 64 - 3
    driver.run()
    driver.assert_all_free()


def test_source_released_and_aborted_is_gone_at_once() -> None:
    driver = Driver(max_batch_tokens=8)
    driver.add(KEY, request(prompt(12)), handoff=True)
    driver.step()
    driver.engine.release(KEY)
    driver.engine.abort(KEY)
    driver.assert_all_free()


def offered(driver: Driver) -> list[Key]:
    """Keys offered in the next step."""
    return [due.key for due in driver.step().offers]


def bounded() -> Driver:
    """At its bound: 5 of 16 blocks are ungranted, more than a quarter. Two more wait."""
    driver = Driver(kv_blocks=16)
    driver.add(KEY, request(prompt(20)), handoff=True)
    assert offered(driver) == [KEY]
    for i in (1, 2):
        driver.add(("s", i), request(prompt(8, seed=i)), handoff=True)
    return driver


def test_past_the_bound_a_prompt_is_offered_first_and_computed_once_granted() -> None:
    driver = bounded()
    assert offered(driver) == [("s", 1), ("s", 2)]
    assert driver.engine.load().num_waiting == 2
    assert not driver.engine.has_work, "nothing to do until a grant comes"
    driver.engine.grant(("s", 2))
    assert driver.engine.has_work
    out = driver.step()
    assert [row.key for row in out.rows] == [("s", 2)]
    assert out.offers == []
    driver.engine.grant(("s", 1))
    assert [row.key for row in driver.step().rows] == [("s", 1)]


@pytest.mark.parametrize("way", ["grant", "release"])
def test_bound_is_lifted_by_a_grant_or_a_release(way: str) -> None:
    driver = bounded()
    driver.step()
    getattr(driver.engine, way)(KEY)
    assert {row.key for row in driver.step().rows} == {("s", 1), ("s", 2)}


def test_past_the_bound_only_a_few_are_offered_ahead() -> None:
    driver = bounded()
    for i in range(3, 12):
        driver.add(("s", i), request(prompt(8, seed=i)), handoff=True)
    assert offered(driver) == [("s", i) for i in range(1, 5)]


def test_past_the_bound_a_released_prompt_waits_for_no_grant() -> None:
    driver = bounded()
    driver.step()
    driver.engine.release(("s", 1))
    assert [row.key for row in driver.step().rows] == [("s", 1)]


def test_past_the_bound_plain_requests_are_computed() -> None:
    driver = bounded()
    driver.add(("s", 3), request(prompt(5, seed=3), max_tokens=1))
    assert [row.key for row in driver.step().rows] == [("s", 3)]


def test_grant_before_compute_counts_nothing_against_the_bound() -> None:
    driver = Driver(kv_blocks=16)
    for i in range(3):
        driver.add(("s", i), request(prompt(16, seed=i)), handoff=True)
        driver.engine.grant(("s", i))
    assert len(driver.step().rows) == 3


def test_source_that_waits_past_its_deadline_fails() -> None:
    driver = bounded()
    late = dataclasses.replace(request(prompt(8, seed=9)), deadline=5.0)
    driver.add(("s", 9), late, handoff=True)
    driver.step()
    driver.clock.now = 6.0
    driver.engine.abort(("s", 1))
    driver.run()
    assert isinstance(driver.errors[("s", 9)], DeadlineExceededError)


def test_several_choices_with_output_cannot_be_handed_over() -> None:
    driver = Driver()
    with pytest.raises(UnsupportedError):
        driver.add(KEY, request(prompt(5), outputs={0: (3,), 1: ()}), handoff=True)
    driver.assert_all_free()


def test_offer_of_a_replayed_choice_covers_its_output() -> None:
    driver = Driver()
    driver.add(KEY, request(prompt(6), outputs={0: (5, 6, 7)}), handoff=True)
    out = driver.step()
    whole = driver.offer_for(KEY, request([*prompt(6), 5, 6, 7]))
    assert out.offers == [OfferDue(KEY, 9, whole.hashes, (3,))]
    assert out.rows[0].position == 3
