"""From parameters to requests: defaults, lengths, ranges, seeds."""

from __future__ import annotations

from typing import Any

import pytest

from baton.core.errors import ContextLengthError, InvalidRequestError
from baton.gateway.api.prepare import (
    ServedModel,
    Wanted,
    build_requests,
    check_prompt,
    sampling_params,
)
from baton.gateway.text.tokenizer import Tokenizer
from fakes.small_tokenizer import byte_level

MODEL = ServedModel("tiny", Tokenizer(byte_level()), context_length=100, vocab_size=400, created=0)


def wanted(**fields: Any) -> Wanted:
    return Wanted(**{"default_max_tokens": 16, **fields})


def test_absent_parameters_take_openais_defaults() -> None:
    params = sampling_params(MODEL, 10, wanted())
    assert (params.max_tokens, params.temperature, params.top_p) == (16, 1.0, 1.0)
    assert (params.top_k, params.min_p, params.min_tokens) == (0, 0.0, 0)
    assert not params.logprobs and not params.ignore_eos


@pytest.mark.parametrize(
    ("num_prompt", "default", "max_tokens", "expected"),
    [(10, 16, None, 16), (90, 16, None, 10), (10, None, None, 90), (10, None, 90, 90)],
)
def test_max_tokens_fit_the_context(
    num_prompt: int, default: int | None, max_tokens: int | None, expected: int
) -> None:
    params = sampling_params(
        MODEL, num_prompt, wanted(default_max_tokens=default, max_tokens=max_tokens)
    )
    assert params.max_tokens == expected


def test_too_many_tokens_name_both_numbers() -> None:
    with pytest.raises(ContextLengthError, match=r"100 tokens.*101 tokens \(10 in the prompt, 91"):
        sampling_params(MODEL, 10, wanted(max_tokens=91))


def test_huge_max_tokens_is_refused() -> None:
    with pytest.raises(ContextLengthError):
        sampling_params(MODEL, 10, wanted(max_tokens=10**30))


def test_prompt_that_fills_the_context_names_both_numbers() -> None:
    with pytest.raises(ContextLengthError, match=r"100 tokens.*prompt has 100 tokens"):
        check_prompt(MODEL, [1] * 100)
    check_prompt(MODEL, [1] * 99)


@pytest.mark.parametrize("prompt", [[], [400], [-1], [1, 2, 10**30]])
def test_prompts_of_no_such_tokens_are_refused(prompt: list[int]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_prompt(MODEL, prompt)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.1}, "min_p"),
        ({"presence_penalty": 3.0}, "presence_penalty"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 91}, "min_tokens"),
        ({"logit_bias": {1: 101.0}}, "logit_bias"),
        ({"logit_bias": {400: 1.0}}, "logit_bias"),
        ({"stop_token_ids": [400]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
    ],
)
def test_values_out_of_range_name_the_parameter(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        sampling_params(MODEL, 10, wanted(**fields))
    assert caught.value.param == param


@pytest.mark.parametrize(("given", "kept"), [(-1, 0), (0, 0), (None, 0), (5, 5), (10**9, 400)])
def test_top_k_is_off_or_within_the_vocabulary(given: int | None, kept: int) -> None:
    assert sampling_params(MODEL, 10, wanted(top_k=given)).top_k == kept


def test_min_tokens_above_the_default_raises_the_default() -> None:
    assert sampling_params(MODEL, 10, wanted(min_tokens=20)).max_tokens == 20


def test_every_prompt_has_a_request_with_n_choices() -> None:
    requests = build_requests(MODEL, [[1], [2, 3]], wanted(n=3, seed=-1), "cmpl-x", 5.0, "tp")
    assert [r.request_id for r in requests] == ["cmpl-x-0", "cmpl-x-1"]
    assert [r.prompt for r in requests] == [(1,), (2, 3)]
    assert all(dict(r.outputs) == {0: (), 1: (), 2: ()} for r in requests)
    assert all(r.seed == 2**64 - 1 and r.deadline == 5.0 for r in requests)
    assert all(r.traceparent == "tp" for r in requests)


def test_seeds_are_drawn_when_absent() -> None:
    seeds = {build_requests(MODEL, [[1]], wanted(), "c", 0.0)[0].seed for _ in range(20)}
    assert len(seeds) == 20 and all(0 <= seed < 2**64 for seed in seeds)


def test_a_wrong_prompt_of_several_is_named() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        build_requests(MODEL, [[1], [400]], wanted(), "c", 0.0)
    assert caught.value.param == "prompt[1]"
