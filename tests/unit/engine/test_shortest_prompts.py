"""Queue policy `shortest`: short prompts share the steps of long ones that came before."""

from __future__ import annotations

from fakes.engines import Driver, prompt, request


def add(driver: Driver, number: int, length: int) -> None:
    driver.add(("s", number), request(prompt(length, seed=number), max_tokens=1))


def steps_until_done(driver: Driver) -> list[int]:
    """Numbers of the requests in the order in which they ended."""
    done: list[int] = []
    while driver.engine.has_work:
        done += [row.key[1] for row in driver.step().rows]
    return done


def test_a_short_prompt_overtakes_a_long_one_that_runs() -> None:
    for policy, order in (("fcfs", [0, 1]), ("shortest", [1, 0])):
        driver = Driver(max_batch_tokens=8, kv_blocks=64, queue_policy=policy)
        add(driver, 0, 60)
        driver.step()
        add(driver, 1, 5)
        assert steps_until_done(driver) == order
        driver.assert_all_free()


def test_the_long_one_uses_what_the_short_one_leaves_of_a_step() -> None:
    driver = Driver(max_batch_tokens=8, kv_blocks=64, queue_policy="shortest")
    add(driver, 0, 60)
    assert driver.step().num_prefill_tokens == 8
    add(driver, 1, 5)
    out = driver.step()
    assert out.num_prefill_tokens == 8 and [row.key[1] for row in out.rows] == [1]


def test_a_long_prompt_is_done_though_short_ones_keep_coming() -> None:
    driver = Driver(max_batch_tokens=8, kv_blocks=200, queue_policy="shortest")
    add(driver, 0, 80)
    number = num_tokens = 0
    while not driver.tokens.get((("s", 0), 0)):
        number += 1
        add(driver, number, 8)
        num_tokens += driver.step().num_prefill_tokens
    # No more than its own length was computed of others, a last step not counted.
    assert num_tokens <= 2 * 80 + 8
    driver.run()
    driver.assert_all_free()


def test_what_is_cached_does_not_count() -> None:
    driver = Driver(max_batch_tokens=8, kv_blocks=64, queue_policy="shortest")
    known = prompt(40, seed=7)
    driver.add(("s", 0), request(known, max_tokens=1))
    driver.run()
    add(driver, 1, 20)
    driver.add(("s", 2), request([*known, 1, 2, 3], max_tokens=1))
    assert steps_until_done(driver) == [2, 1]
