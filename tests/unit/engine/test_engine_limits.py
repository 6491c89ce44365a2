"""How outputs end, what is refused at the door, and what the engine says of its load."""

from __future__ import annotations

from typing import Any

import pytest

from baton.core.errors import ContextLengthError, InvalidRequestError
from baton.core.request import FinishReason, Request
from fakes.engines import VOCAB, Driver, prompt, request

KEY = ("s", 0)
EOS = 0
STOP_TOKEN = 77


def run(wanted: Request, **settings: Any) -> tuple[list[int], FinishReason]:
    driver = Driver(**settings)
    driver.add(KEY, wanted)
    driver.run()
    driver.assert_all_free()
    return driver.tokens[(KEY, 0)], driver.finished[(KEY, 0)]


def wanting(token: int, **params: Any) -> Request:
    """The mock gives the token that is biased to the utmost."""
    return request(prompt(5), logit_bias={token: 100.0}, **{"max_tokens": 6, **params})


def test_eos_ends_an_output_and_is_emitted() -> None:
    assert run(wanting(EOS)) == ([EOS], FinishReason.STOP)


def test_ignored_eos_does_not_end_it() -> None:
    assert run(wanting(EOS, ignore_eos=True)) == ([EOS] * 6, FinishReason.LENGTH)


def test_stop_token_ends_an_output_even_when_eos_is_ignored() -> None:
    wanted = wanting(STOP_TOKEN, stop_token_ids=(STOP_TOKEN,), ignore_eos=True)
    assert run(wanted) == ([STOP_TOKEN], FinishReason.STOP)


def test_nothing_ends_before_min_tokens() -> None:
    wanted = wanting(STOP_TOKEN, stop_token_ids=(STOP_TOKEN,), min_tokens=3)
    assert run(wanted) == ([STOP_TOKEN] * 4, FinishReason.STOP)
    tokens, finish = run(wanting(EOS, min_tokens=3))
    assert EOS not in tokens[:3] and tokens[3:] == [EOS]
    assert finish is FinishReason.STOP


def test_choices_that_end_at_once_leave_the_others_running() -> None:
    driver = Driver()
    wanted = request(prompt(6), n=3, max_tokens=5, temperature=1.0)
    probe = Driver()
    probe.add(KEY, wanted)
    probe.run()
    first = probe.tokens[(KEY, 1)][0]
    assert all(first not in probe.tokens[(KEY, c)][:1] for c in (0, 2))
    stopping = request(
        prompt(6), n=3, max_tokens=5, temperature=1.0, stop_token_ids=(first,), min_tokens=0
    )
    driver.add(KEY, stopping)
    driver.run()
    assert driver.tokens[(KEY, 1)] == [first]
    assert driver.finished[(KEY, 1)] is FinishReason.STOP
    assert len(driver.tokens[(KEY, 0)]) == len(driver.tokens[(KEY, 2)]) == 5
    driver.assert_all_free()


def test_context_length_ends_an_output() -> None:
    tokens, finish = run(request(prompt(9), max_tokens=100), max_model_len=13)
    assert len(tokens) == 4
    assert finish is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        (request([]), InvalidRequestError, "empty"),
        (request([1, VOCAB]), InvalidRequestError, f"between 0 and {VOCAB - 1}"),
        (request([1, -1]), InvalidRequestError, "token id -1"),
        (request([1, 2**70]), InvalidRequestError, "invalid token ids"),
        (request([1], stop_token_ids=(VOCAB,)), InvalidRequestError, "stop_token_ids"),
        (request([1], logit_bias={VOCAB: 1.0}), InvalidRequestError, "logit_bias"),
        (request([1], outputs={0: (VOCAB,)}), InvalidRequestError, "outputs"),
        (request([1], outputs={0: (1, 2)}, max_tokens=2), InvalidRequestError, "already"),
        (request([1], outputs={}), InvalidRequestError, "n must be"),
        (request([1], n=17), InvalidRequestError, "max_sequences"),
        (request([1], temperature=3.0), InvalidRequestError, "temperature"),
        (request(prompt(200)), ContextLengthError, "context of 200 tokens"),
        (request(prompt(199), outputs={0: (1,)}), ContextLengthError, "output so far 1"),
        (request(prompt(199)), InvalidRequestError, "40 KV blocks of 4 tokens"),
    ],
)
def test_what_can_never_run_is_refused_with_the_limit(
    wanted: Request, error: type[InvalidRequestError], message: str
) -> None:
    driver = Driver(max_model_len=200, kv_blocks=40)
    for call in (
        lambda: driver.engine.check(wanted),
        lambda: driver.add(KEY, wanted),
        lambda: driver.add(KEY, wanted, handoff=True),
    ):
        with pytest.raises(error, match=message):
            call()
    assert not driver.engine.has_work
    driver.assert_all_free()


def test_longest_prompt_that_fits_runs() -> None:
    tokens, finish = run(request(prompt(160), max_tokens=1), max_model_len=200, kv_blocks=40)
    assert (len(tokens), finish) == (1, FinishReason.LENGTH)


def test_aborted_request_frees_everything_in_any_state() -> None:
    for steps in range(6):
        driver = Driver(max_batch_tokens=4)
        driver.add(KEY, request(prompt(11), n=3, max_tokens=9))
        driver.add(("s", 1), request(prompt(11), outputs={0: (1,), 1: (2, 3)}))
        for _ in range(steps):
            driver.step()
        for key in (KEY, ("s", 1)):
            driver.engine.abort(key)
        driver.assert_all_free()
        assert not driver.engine.has_work


def test_queue_room_falls_with_waiting_tokens_and_returns() -> None:
    driver = Driver(max_batch_tokens=16)
    rooms = [driver.engine.load().queue_room]
    for i in range(20):
        driver.add(("s", i), request(prompt(8, seed=i), max_tokens=1))
        rooms.append(driver.engine.load().queue_room)
    assert rooms[0] > 0
    assert rooms == sorted(rooms, reverse=True)
    assert rooms[-1] == 0 == rooms[4], "four prompts of 8 tokens are two steps of 16"
    assert driver.engine.load().queued_prefill_tokens == 160
    driver.run()
    assert driver.engine.load().queue_room > 0


def test_no_room_while_blocks_are_short() -> None:
    driver = Driver(kv_blocks=8)
    for i in range(2):
        driver.add(("s", i), request(prompt(12, seed=i), max_tokens=14))
    while not driver.engine.load().short_of_blocks:
        assert driver.engine.load().queue_room > 0
        driver.step()
    assert driver.engine.load().queue_room == 0
    driver.run()
    assert not driver.engine.load().short_of_blocks


def test_load_counts_prompt_tokens_not_computed_yet() -> None:
    driver = Driver(max_batch_tokens=10)
    driver.add(KEY, request(prompt(25)))
    driver.add(("s", 1), request(prompt(7, seed=1)))
    for expected in (32, 22, 12):
        assert driver.engine.load().queued_prefill_tokens == expected
        driver.step()


def test_step_without_work_says_nothing() -> None:
    driver = Driver()
    out = driver.step()
    assert (out.rows, out.cache, out.step_s) == ([], [], 0.0)
    assert not driver.engine.has_work


def test_step_reports_its_time_and_token_counts() -> None:
    driver = Driver(mock_prefill_us_per_token=1000.0, mock_step_ms=5.0)
    driver.add(KEY, request(prompt(20), max_tokens=3))
    first = driver.step()
    assert (first.num_prefill_tokens, first.num_decode_tokens) == (20, 0)
    assert first.step_s == pytest.approx(0.020)
    second = driver.step()
    assert (second.num_prefill_tokens, second.num_decode_tokens) == (0, 1)
    assert second.step_s == pytest.approx(0.005)
