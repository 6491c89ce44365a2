"""The same request gets the same tokens, however the engine had to go about it."""

from __future__ import annotations

import pytest

from fakes.engines import Driver, Pair, alone, mixed_requests, prompt, request

REQUESTS = mixed_requests()
EXPECTED = alone(REQUESTS)


def run_together(driver: Driver) -> None:
    for i, wanted in enumerate(REQUESTS):
        driver.add(("s", i), wanted)
    driver.run()
    driver.assert_all_free()
    assert driver.errors == {}
    assert [driver.answers(("s", i)) for i in range(len(REQUESTS))] == EXPECTED


def test_every_request_is_answered_in_full() -> None:
    for wanted, got in zip(REQUESTS, EXPECTED, strict=True):
        assert {c: len(tokens) for c, tokens in got.items()} == dict.fromkeys(
            wanted.outputs, wanted.sampling.max_tokens
        )


def test_batching_does_not_change_tokens() -> None:
    run_together(Driver(kv_blocks=512, max_batch_tokens=2048))


@pytest.mark.parametrize("budget", [1, 2, 3, 7, 16])
def test_chunked_prefill_does_not_change_tokens(budget: int) -> None:
    run_together(Driver(kv_blocks=512, max_batch_tokens=budget))


@pytest.mark.parametrize("block_size", [1, 3, 16])
def test_block_size_does_not_change_tokens(block_size: int) -> None:
    run_together(Driver(block_size=block_size, kv_blocks=300))


@pytest.mark.parametrize("kv_blocks", [20, 22, 27, 35])
def test_preempted_sequences_keep_their_tokens(kv_blocks: int) -> None:
    driver = Driver(kv_blocks=kv_blocks)
    steps_short = 0
    for i, wanted in enumerate(REQUESTS):
        driver.add(("s", i), wanted)
    while driver.engine.has_work:
        driver.step()
        driver.engine.check_integrity()
        steps_short += driver.engine.load().short_of_blocks
    assert steps_short > 0
    driver.assert_all_free()
    assert [driver.answers(("s", i)) for i in range(len(REQUESTS))] == EXPECTED


def test_prefix_hits_do_not_change_tokens() -> None:
    driver = Driver(kv_blocks=512)
    for turn in range(2):
        for i, wanted in enumerate(REQUESTS):
            key = (f"turn{turn}", i)
            driver.add(key, wanted)
            driver.run()
            assert driver.answers(key) == EXPECTED[i]
            if turn:
                full_blocks = (len(wanted.prompt) - 1) // 4
                assert driver.cached_tokens[key] == full_blocks * 4


def test_evictions_between_prefix_hits_do_not_change_tokens() -> None:
    driver = Driver(kv_blocks=21)
    for turn in range(3):
        for i, wanted in enumerate(REQUESTS):
            driver.add((f"turn{turn}", i), wanted)
            driver.run()
            assert driver.answers((f"turn{turn}", i)) == EXPECTED[i]


@pytest.mark.parametrize("block_sizes", [(4, 4), (4, 6), (8, 3, 2)])
def test_several_groups_give_the_same_tokens(block_sizes: tuple[int, ...]) -> None:
    run_together(Driver(block_sizes=block_sizes, kv_blocks=60))


@pytest.mark.parametrize("source_budget", [5, 64])
@pytest.mark.parametrize("target_blocks", [24, 40, 512])
def test_handoff_gives_the_tokens_of_one_engine(source_budget: int, target_blocks: int) -> None:
    pair = Pair(
        Driver(kv_blocks=60, max_batch_tokens=source_budget), Driver(kv_blocks=target_blocks)
    )
    for i, wanted in enumerate(REQUESTS):
        pair.add(("s", i), wanted)
    pair.run()
    assert [pair.answers(("s", i)) for i in range(len(REQUESTS))] == EXPECTED
    pair.source.assert_all_free()
    pair.target.assert_all_free()


def test_handoff_of_groups_with_blocks_of_different_sizes() -> None:
    sizes = (4, 6)
    pair = Pair(Driver(block_sizes=sizes, kv_blocks=90), Driver(block_sizes=sizes, kv_blocks=60))
    for i, wanted in enumerate(REQUESTS):
        pair.add(("s", i), wanted)
    pair.run()
    assert [pair.answers(("s", i)) for i in range(len(REQUESTS))] == EXPECTED
    pair.source.assert_all_free()
    pair.target.assert_all_free()


def test_second_handoff_of_a_prompt_skips_what_the_target_holds() -> None:
    pair = Pair(Driver(), Driver())
    wanted = request(prompt(18), max_tokens=5)
    pair.add(("s", 1), wanted)
    pair.run()
    assert pair.num_copied == 5
    pair.add(("s", 2), wanted)
    pair.run()
    assert pair.num_copied == 6, "only the partial tail is sent again"
    assert pair.answers(("s", 1)) == pair.answers(("s", 2)) == alone([wanted])[0]
    assert pair.target.cached_tokens[("s", 2)] == 16


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_replayed_output_continues_identically(cut: int) -> None:
    for wanted, expected in zip(REQUESTS, EXPECTED, strict=True):
        if wanted.sampling.max_tokens <= cut:
            continue
        outputs = {c: tuple(tokens[: cut + c % 2 - 1]) for c, tokens in expected.items()}
        driver = Driver(kv_blocks=100, max_batch_tokens=16)
        again = request(
            wanted.prompt,
            outputs=outputs,
            seed=wanted.seed,
            temperature=wanted.sampling.temperature,
            max_tokens=wanted.sampling.max_tokens,
        )
        driver.add(("s", 0), again)
        driver.run()
        driver.assert_all_free()
        got = driver.answers(("s", 0))
        assert {c: [*outputs[c], *got[c]] for c in outputs} == expected


def test_handoff_of_a_replayed_choice_continues_identically() -> None:
    wanted = request(prompt(14), max_tokens=12)
    expected = alone([wanted])[0][0]
    again = request(prompt(14), max_tokens=12, outputs={0: tuple(expected[:5])})
    pair = Pair(Driver(max_batch_tokens=6), Driver())
    pair.add(("s", 0), again)
    pair.run()
    assert pair.answers(("s", 0))[0] == expected[5:]


def test_seed_and_choice_change_sampled_tokens_but_not_greedy_ones() -> None:
    def tokens(seed: int, temperature: float) -> dict[int, list[int]]:
        return alone([request(prompt(9), n=2, seed=seed, temperature=temperature)])[0]

    assert tokens(1, 1.0)[0] != tokens(2, 1.0)[0]
    assert tokens(1, 1.0)[0] != tokens(1, 1.0)[1]
    assert tokens(1, 0.0)[0] == tokens(2, 0.0)[1]
