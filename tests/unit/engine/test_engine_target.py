"""The target side: room for offered KV, its adoption, and quarantine while a write may land."""

from __future__ import annotations

import dataclasses

import pytest

from baton.core.errors import ContextLengthError, HandoffError, InvalidRequestError
from baton.core.handoff import Key
from fakes.engines import Driver, alone, prompt, request

KEY = ("s", 0)
WANTED = request(prompt(10), n=2, max_tokens=6)
EXPECTED = alone([WANTED])[0]


def adopt(driver: Driver, key: Key = KEY, wanted=WANTED, expected=EXPECTED) -> None:  # type: ignore[no-untyped-def]
    """Reserve, write, adopt."""
    reserved = driver.reserve(key, wanted)
    assert reserved is not None
    driver.write(wanted, reserved)
    for choice, tokens in expected.items():
        driver.tokens[(key, choice)] = tokens[:1]
    driver.engine.adopt(key, {choice: (tokens[0],) for choice, tokens in expected.items()})


def test_adopted_choices_go_on_where_the_source_ended() -> None:
    driver = Driver()
    adopt(driver)
    out = driver.step()
    assert [(row.choice, row.position) for row in out.rows] == [(0, 1), (1, 1)]
    driver.run()
    assert driver.answers(KEY) == EXPECTED
    driver.assert_all_free()


def test_only_the_given_choices_are_adopted() -> None:
    driver = Driver()
    reserved = driver.reserve(KEY, WANTED)
    assert reserved is not None
    driver.write(WANTED, reserved)
    driver.tokens[(KEY, 1)] = EXPECTED[1][:1]
    driver.engine.adopt(KEY, {1: (EXPECTED[1][0],)})
    driver.run()
    assert driver.answers(KEY) == {0: [], 1: EXPECTED[1]}
    driver.assert_all_free()


def test_adopting_no_choice_leaves_prefix_cache() -> None:
    driver = Driver()
    reserved = driver.reserve(KEY, WANTED)
    assert reserved is not None
    driver.write(WANTED, reserved)
    driver.engine.adopt(KEY, {})
    driver.run()
    driver.assert_all_free()
    driver.add(("s", 1), WANTED)
    driver.run()
    assert driver.cached_tokens[("s", 1)] == 8


def test_reserved_blocks_cannot_be_read_before_adoption() -> None:
    driver = Driver()
    reserved = driver.reserve(KEY, WANTED)
    assert reserved is not None
    assert driver.engine.cached_hashes() == [[]]
    driver.add(("s", 1), WANTED)
    driver.run()
    assert driver.cached_tokens[("s", 1)] == 0
    driver.engine.unreserve(KEY, quarantine=False)


def test_adoption_enters_full_blocks_into_the_cache() -> None:
    driver = Driver()
    adopt(driver)
    assert set(driver.engine.cached_hashes()[0]) == set(driver.offer_for(KEY, WANTED).hashes[0])
    assert driver.engine.has_work
    (delta,) = driver.step().cache
    assert len(delta.stored) == 2


def test_what_the_target_holds_is_skipped_and_pinned() -> None:
    driver = Driver(kv_blocks=8)
    driver.add(("s", 9), request(prompt(10), max_tokens=1))
    driver.run()
    reserved = driver.reserve(KEY, WANTED)
    assert reserved is not None
    assert reserved[0].skip == {0, 1}
    assert driver.engine.load().reserved_blocks == 1
    # Somebody wants all that is left: the skipped blocks must stay.
    driver.add(("s", 1), request(prompt(20, seed=1), max_tokens=1))
    driver.run()
    driver.write(WANTED, reserved)
    for choice, tokens in EXPECTED.items():
        driver.tokens[(KEY, choice)] = tokens[:1]
    driver.engine.adopt(KEY, {choice: (tokens[0],) for choice, tokens in EXPECTED.items()})
    driver.run()
    assert driver.answers(KEY) == EXPECTED
    assert driver.cached_tokens[KEY] == 8
    driver.assert_all_free()


def test_what_is_left_of_an_evicted_prompt_is_skipped() -> None:
    driver = Driver(kv_blocks=8)
    driver.add(("s", 9), request(prompt(17), max_tokens=1))
    driver.run()
    cached = driver.engine.cached_hashes()[0]
    # The tail of a prompt goes first: of its blocks 0 to 3 only 0 and 1 stay.
    driver.add(("s", 8), request(prompt(22, seed=8), max_tokens=1))
    driver.run()
    left = [h in driver.engine.cached_hashes()[0] for h in cached]
    assert left == [True, True, False, False]
    reserved = driver.reserve(KEY, request(prompt(17)))
    assert reserved is not None and reserved[0].skip == {0, 1}


@pytest.mark.parametrize(
    "change",
    [
        {"num_tokens": 11},
        {"num_tokens": 9},
        {"num_blocks": (4,)},
        {"num_blocks": (3, 3)},
        {"hashes": ((b"\0" * 16, b"\1" * 16),)},
        {"hashes": ((),)},
        {"hashes": ()},
    ],
)
def test_offer_that_contradicts_the_request_is_refused(change: dict[str, object]) -> None:
    driver = Driver()
    due = dataclasses.replace(driver.offer_for(KEY, WANTED), **change)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="offer"):
        driver.engine.reserve(KEY, WANTED, due.num_tokens, due.hashes, due.num_blocks)
    driver.assert_all_free()


def test_offer_of_another_tenant_is_refused() -> None:
    driver = Driver()
    due = driver.offer_for(KEY, dataclasses.replace(WANTED, tenant_salt="other"))
    with pytest.raises(InvalidRequestError, match="offer"):
        driver.engine.reserve(KEY, WANTED, due.num_tokens, due.hashes, due.num_blocks)


def test_offer_that_can_never_fit_is_refused_and_one_that_may_is_not() -> None:
    driver = Driver(kv_blocks=8, max_model_len=100)
    with pytest.raises(InvalidRequestError, match="8 KV blocks"):
        driver.reserve(KEY, request(prompt(33)))
    with pytest.raises(ContextLengthError):
        driver.reserve(KEY, request(prompt(100)))
    assert driver.reserve(KEY, request(prompt(32))) is not None
    assert driver.reserve(("s", 1), request(prompt(1))) is None
    driver.engine.unreserve(KEY, quarantine=False)
    assert driver.reserve(("s", 1), request(prompt(1))) is not None


def test_reserving_leaves_running_sequences_a_block_each() -> None:
    def fits(length: int) -> bool:
        driver = Driver(kv_blocks=10)
        for i in range(2):
            driver.add(("s", i), request(prompt(7, seed=i), max_tokens=8))
        driver.step()
        return driver.reserve(("s", 9), request(prompt(length, seed=9))) is not None

    assert fits(16)
    assert not fits(17)


def test_nothing_is_reserved_while_preempted_sequences_wait_for_blocks() -> None:
    driver = Driver(kv_blocks=8)
    for i in range(2):
        driver.add(("s", i), request(prompt(12, seed=i), max_tokens=14))
    while not driver.engine.load().short_of_blocks:
        driver.step()
    assert driver.engine.load().free_blocks > 1
    assert driver.reserve(("s", 9), request(prompt(1, seed=9))) is None
    driver.run()
    assert driver.reserve(("s", 9), request(prompt(1, seed=9))) is not None


def test_skipped_blocks_do_not_count_as_free() -> None:
    driver = Driver(kv_blocks=4)
    driver.add(("s", 8), request(prompt(3, seed=8)), handoff=True)
    driver.add(("s", 9), request(prompt(10), max_tokens=1))
    driver.run()
    # One block is held, two of the three free ones are a prefix hit, and two more are wanted.
    longer = request([*prompt(10), 1, 2, 3])
    assert driver.reserve(KEY, longer) is None
    driver.engine.release(("s", 8))
    assert driver.reserve(KEY, longer) is not None


def test_reservations_take_slots() -> None:
    driver = Driver(max_sequences=3)
    assert driver.reserve(KEY, WANTED) is not None
    assert driver.reserve(("s", 1), request(prompt(5), n=2)) is None
    driver.add(("s", 2), request(prompt(4, seed=2), n=2))
    driver.step()
    assert driver.engine.load().num_waiting == 1
    driver.engine.unreserve(KEY, quarantine=False)
    driver.run()
    assert len(driver.tokens[(("s", 2), 1)]) == 8


def test_quarantined_blocks_are_not_used_until_lifted() -> None:
    driver = Driver(kv_blocks=4)
    reserved = driver.reserve(KEY, WANTED)
    assert reserved is not None
    driver.engine.unreserve(KEY, quarantine=True)
    load = driver.engine.load()
    assert (load.free_blocks, load.reserved_blocks, load.quarantined_blocks) == (1, 0, 3)
    driver.add(("s", 1), request(prompt(5), max_tokens=2))
    driver.run()
    assert not driver.tokens[(("s", 1), 0)]
    driver.engine.lift_quarantine(KEY)
    driver.run()
    assert len(driver.tokens[(("s", 1), 0)]) == 2
    driver.assert_all_free()


def test_skipped_blocks_are_not_quarantined() -> None:
    driver = Driver()
    driver.add(("s", 9), request(prompt(10), max_tokens=1))
    driver.run()
    assert driver.reserve(KEY, WANTED) is not None
    driver.engine.unreserve(KEY, quarantine=True)
    assert driver.engine.load().quarantined_blocks == 1
    assert len(driver.engine.cached_hashes()[0]) == 2
    driver.engine.lift_quarantine(KEY)
    driver.assert_all_free()


def test_second_handoff_of_a_key_adds_to_its_quarantine() -> None:
    driver = Driver()
    for _ in range(2):
        assert driver.reserve(KEY, WANTED) is not None
        driver.engine.unreserve(KEY, quarantine=True)
        driver.engine.check_integrity()
    assert driver.engine.load().quarantined_blocks == 6
    driver.engine.lift_quarantine(KEY)
    driver.assert_all_free()


def test_unknown_keys_are_ignored() -> None:
    engine = Driver().engine
    engine.abort(KEY)
    engine.grant(KEY)
    engine.release(KEY)
    engine.unreserve(KEY, quarantine=True)
    engine.lift_quarantine(KEY)
    engine.check_integrity()


def test_abort_leaves_a_reservation_to_its_handoff() -> None:
    driver = Driver()
    assert driver.reserve(KEY, WANTED) is not None
    driver.engine.abort(KEY)
    assert driver.engine.load().reserved_blocks == 3, "a write may still come"
    driver.engine.unreserve(KEY, quarantine=False)
    driver.assert_all_free()


@pytest.mark.parametrize(
    "outputs",
    [{5: (1,)}, {0: (512,)}, {0: (-1,)}, {0: ()}, {0: (1, 2, 3, 4, 5, 6)}, {0: (1,), 7: (1,)}],
)
def test_tokens_that_cannot_be_fail_the_handoff(outputs: dict[int, tuple[int, ...]]) -> None:
    driver = Driver()
    reserved = driver.reserve(KEY, WANTED)
    assert reserved is not None
    driver.engine.adopt(KEY, outputs)
    assert driver.engine.has_work
    driver.step()
    assert isinstance(driver.errors[KEY], HandoffError)
    assert driver.engine.cached_hashes() == [[]]
    driver.assert_all_free()


def test_several_tokens_from_the_source_are_computed_before_the_next() -> None:
    wanted = request(prompt(10), max_tokens=9)
    expected = alone([wanted])[0][0]
    driver = Driver(max_batch_tokens=2)
    reserved = driver.reserve(KEY, wanted)
    assert reserved is not None
    driver.write(wanted, reserved)
    driver.tokens[(KEY, 0)] = expected[:5]
    driver.engine.adopt(KEY, {0: tuple(expected[:5])})
    driver.run()
    assert driver.answers(KEY)[0] == expected
    driver.assert_all_free()


def test_preempted_after_adoption_it_is_computed_here() -> None:
    driver = Driver(kv_blocks=8)
    driver.add(("s", 1), request(prompt(13, seed=1), max_tokens=10))
    driver.step()
    adopt(driver)
    driver.run()
    assert driver.answers(KEY) == EXPECTED
    assert driver.num_steps > 10
    driver.assert_all_free()


@pytest.mark.parametrize("kv_blocks", range(9, 14))
def test_older_sequence_takes_blocks_of_an_adopted_one_served_before_it(kv_blocks: int) -> None:
    old = request(prompt(20, seed=3), max_tokens=12)
    driver = Driver(kv_blocks=kv_blocks, max_batch_tokens=6)
    driver.add(("s", 1), old)
    driver.step()
    adopt(driver)
    driver.run()
    assert driver.answers(("s", 1)) == alone([old])[0]
    assert driver.answers(KEY) == EXPECTED
    driver.assert_all_free()
