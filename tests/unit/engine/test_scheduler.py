"""What runs in a step: decode first, prefill chunks under the budget, oldest first."""

from __future__ import annotations

import dataclasses

from baton.core.errors import DeadlineExceededError, OverloadedError
from baton.engine.batch import Batch, SampledToken
from baton.engine.runner import LayerPieces
from fakes.engines import Driver, alone, prompt, request


def batches(driver: Driver) -> list[Batch]:
    """Record what the runner is given from here on."""
    seen: list[Batch] = []
    run = driver.runner.run

    def recorded(batch: Batch, pieces: LayerPieces | None = None) -> list[SampledToken]:
        seen.append(batch)
        return run(batch, pieces)

    driver.runner.run = recorded  # type: ignore[method-assign]
    return seen


def sizes(batch: Batch) -> list[int]:
    return [len(entry.token_ids) for entry in batch.entries]


def test_decodes_come_before_prefill_chunks() -> None:
    driver = Driver(max_batch_tokens=8)
    driver.add(("s", 1), request(prompt(5), max_tokens=9))
    driver.step()
    seen = batches(driver)
    driver.add(("s", 2), request(prompt(20)))
    out = driver.step()
    assert sizes(seen[0]) == [1, 7]
    assert (out.num_decode_tokens, out.num_prefill_tokens) == (1, 7)
    driver.step()
    assert sizes(seen[1]) == [1, 7]
    out = driver.step()
    assert sizes(seen[2]) == [1, 6], "20 tokens in chunks of 7, 7 and 6"
    assert {row.key[1] for row in out.rows} == {1, 2}


def test_budget_is_shared_by_several_prompts_oldest_first() -> None:
    driver = Driver(max_batch_tokens=16)
    seen = batches(driver)
    for i, length in enumerate((6, 7, 8)):
        driver.add(("s", i), request(prompt(length, seed=i)))
    driver.step()
    assert sizes(seen[0]) == [6, 7, 3]
    driver.step()
    assert sizes(seen[1]) == [1, 1, 5]


def test_no_step_exceeds_the_budget() -> None:
    driver = Driver(max_batch_tokens=7)
    seen = batches(driver)
    for i in range(9):
        driver.add(("s", i), request(prompt(3 + i * 3, seed=i), n=1 + i % 3))
    driver.run()
    assert max(batch.num_tokens for batch in seen) == 7
    driver.assert_all_free()


def test_more_decodes_than_budget_take_turns() -> None:
    driver = Driver(max_batch_tokens=4)
    driver.add(("s", 0), request(prompt(3), n=8, max_tokens=50))
    for _ in range(31):
        driver.step()
    counts = [len(tokens) for tokens in driver.tokens.values()]
    assert max(counts) - min(counts) <= 1


def test_higher_classes_overtake_by_setting() -> None:
    driver = Driver(max_batch_tokens=8, queue_policy="priority")
    seen = batches(driver)
    for i, priority in enumerate((0, -1, 1, 0)):
        asked = dataclasses.replace(request(prompt(8, seed=i), max_tokens=1), priority=priority)
        driver.add(("s", i), asked)
    driver.run()
    order = [list(driver.requests).index(key) for key in driver.cached_tokens]
    assert order == [2, 0, 3, 1]
    assert len(seen) == 4
    driver.assert_all_free()


def test_long_prompt_is_not_overtaken_by_short_ones() -> None:
    driver = Driver(kv_blocks=10, max_batch_tokens=64)
    driver.add(("s", 0), request(prompt(20), max_tokens=8))
    driver.step()
    driver.add(("s", 1), request(prompt(30, seed=1)))
    driver.add(("s", 2), request(prompt(2, seed=2)))
    driver.step()
    load = driver.engine.load()
    assert (load.num_running, load.num_waiting) == (1, 2), "no room for the first in the queue"
    assert load.short_of_blocks
    driver.run()
    driver.assert_all_free()


def test_at_most_max_sequences_run() -> None:
    driver = Driver(max_sequences=4, kv_blocks=200)
    for i in range(10):
        driver.add(("s", i), request(prompt(4, seed=i), n=1 + i % 3))
    while driver.engine.has_work:
        driver.step()
        driver.engine.check_integrity()
        assert driver.engine.load().num_running <= 4


def test_fork_reserves_slots_for_all_choices() -> None:
    driver = Driver(max_sequences=4)
    driver.add(("s", 0), request(prompt(4), n=3))
    driver.add(("s", 1), request(prompt(4, seed=1), n=2))
    driver.step()
    assert driver.engine.load().num_running == 3
    assert driver.engine.load().num_waiting == 1


def test_choices_share_the_prompt_and_copy_only_its_tail() -> None:
    driver = Driver()
    seen = batches(driver)
    driver.add(("s", 0), request(prompt(10), n=3, max_tokens=3))
    driver.step()
    assert sizes(seen[0]) == [10] and len(seen[0].entries[0].samples) == 3
    assert driver.engine.load().free_blocks == 64 - 3
    driver.step()
    # Two full blocks are shared; two choices copy the tail, the last one keeps it.
    assert len(seen[1].copies) == 2
    assert driver.engine.load().free_blocks == 64 - 5
    driver.run()
    assert not any(batch.copies for batch in seen[2:])


def test_fork_at_a_block_boundary_copies_nothing() -> None:
    driver = Driver()
    seen = batches(driver)
    driver.add(("s", 0), request(prompt(8), n=3, max_tokens=3))
    driver.run()
    assert not any(batch.copies for batch in seen)


def test_youngest_gives_its_blocks_back_first() -> None:
    driver = Driver(kv_blocks=8)
    for i in range(2):
        driver.add(("s", i), request(prompt(12, seed=i), max_tokens=16))
    order = []
    while driver.engine.has_work:
        order += [row.key[1] for row in driver.step().rows if row.finish is not None]
    assert order == [0, 1]
    assert len(driver.tokens[(("s", 1), 0)]) == 16


def test_preempted_sequence_goes_before_those_that_never_ran() -> None:
    driver = Driver(kv_blocks=8)
    for i in range(2):
        driver.add(("s", i), request(prompt(12, seed=i), max_tokens=16))
    driver.step()
    driver.add(("s", 2), request(prompt(4, seed=2), max_tokens=1))
    driver.run()
    # There was room for the third long before there was for the second again.
    assert [key[1] for (key, _) in driver.finished] == [0, 2, 1]


def test_sequence_that_outgrows_the_pool_fails_by_name_and_others_go_on() -> None:
    driver = Driver(kv_blocks=8)
    driver.add(("s", 0), request(prompt(12), max_tokens=100))
    driver.add(("s", 1), request(prompt(9, seed=1), max_tokens=6))
    driver.run()
    error = driver.errors[("s", 0)]
    assert isinstance(error, OverloadedError) and "kv_blocks" in error.message
    assert len(driver.tokens[(("s", 0), 0)]) == 8 * 4 - 12 + 1
    assert driver.answers(("s", 1)) == alone([request(prompt(9, seed=1), max_tokens=6)])[0]
    driver.assert_all_free()


def test_waiting_past_the_deadline_fails_without_compute() -> None:
    driver = Driver(max_sequences=1)
    driver.add(("s", 0), request(prompt(5), max_tokens=4))
    driver.add(("s", 1), dataclasses.replace(request(prompt(5)), deadline=1.0))
    driver.step()
    driver.clock.now = 2.0
    driver.run()
    assert isinstance(driver.errors[("s", 1)], DeadlineExceededError)
    assert len(driver.tokens[(("s", 0), 0)]) == 4
    assert not driver.tokens[(("s", 1), 0)]
    driver.assert_all_free()


def test_prefix_hit_leaves_one_token_to_compute() -> None:
    driver = Driver()
    wanted = request(prompt(12), max_tokens=2)
    driver.add(("s", 0), wanted)
    driver.run()
    seen = batches(driver)
    driver.add(("s", 1), wanted)
    driver.run()
    assert driver.cached_tokens == {("s", 0): 0, ("s", 1): 8}
    assert sizes(seen[0]) == [4], "all three blocks are cached, but the last is computed again"


def test_generated_tokens_are_cached_for_the_next_turn() -> None:
    driver = Driver()
    driver.add(("s", 0), request(prompt(6), max_tokens=11))
    driver.run()
    tokens = driver.tokens[(("s", 0), 0)]
    driver.add(("s", 1), request([*prompt(6), *tokens, 7, 8, 9]))
    driver.run()
    # 6 + 11 tokens, the last of which was never computed.
    assert driver.cached_tokens[("s", 1)] == 16


def test_tenants_do_not_share_blocks() -> None:
    driver = Driver()
    for i, salt in enumerate(("", "tenant", "tenant")):
        driver.add(("s", i), dataclasses.replace(request(prompt(9)), tenant_salt=salt))
        driver.run()
    assert driver.cached_tokens == {("s", 0): 0, ("s", 1): 0, ("s", 2): 8}


def test_admission_leaves_running_sequences_a_block_each_to_grow() -> None:
    def num_waiting(length: int) -> int:
        driver = Driver(kv_blocks=10)
        for i in range(2):
            driver.add(("s", i), request(prompt(7, seed=i), max_tokens=8))
        driver.step()
        # Six blocks are free, and the two that run may want one each.
        driver.add(("s", 2), request(prompt(length, seed=2)))
        driver.step()
        return driver.engine.load().num_waiting

    assert num_waiting(16) == 0
    assert num_waiting(17) == 1


def test_shortage_ends_with_those_who_were_short() -> None:
    """Else nobody would ever be sent here again: the flag tells gateways to hold back."""
    driver = Driver(kv_blocks=8)
    size = driver.engine.groups[0].block_size
    for number in (1, 2):
        driver.add(("s", number), request(prompt(3 * size, seed=number), max_tokens=4 * size))
    while not driver.engine.load().short_of_blocks:
        driver.step()
    for number in (1, 2):
        driver.engine.abort(("s", number))
    assert not driver.engine.has_work, "no step will come to look again"
    load = driver.engine.load()
    assert not load.short_of_blocks
    assert load.queue_room > 0
    wanted = request(prompt(2 * size, seed=3))
    assert driver.reserve(("s", 3), wanted) is not None
