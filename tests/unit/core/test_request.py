"""Sampling parameters name what is wrong with them; requests know their choices."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from baton.core.errors import InvalidRequestError
from baton.core.request import FinishReason, Request, SamplingParams


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [-0.01, 2.01, float("nan")]),
        ("top_p", [0.0, -1.0, 1.01, float("nan")]),
        ("min_p", [-0.1, 1.1]),
        ("top_k", [-1]),
        ("presence_penalty", [-2.1, 2.1]),
        ("frequency_penalty", [-2.1, 2.1]),
        ("max_tokens", [0, -5]),
        ("min_tokens", [-1, 11]),
        ("logit_bias", [{3: 100.5}, {3: -101.0}]),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, values: list[Any]) -> None:
    for value in values:
        params = dataclasses.replace(SamplingParams(max_tokens=10), **{name: value})
        with pytest.raises(InvalidRequestError, match=name) as caught:
            params.check()
        assert caught.value.param == name


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0},
        {"temperature": 2.0},
        {"top_p": 1.0},
        {"min_p": 1.0},
        {"min_tokens": 10},
        {"presence_penalty": -2.0, "frequency_penalty": 2.0},
        {"logit_bias": {0: -100.0, 1: 100.0}},
    ],
)
def test_values_at_the_bounds_are_taken(params: dict[str, Any]) -> None:
    SamplingParams(max_tokens=10, **params).check()


def test_a_request_has_one_fresh_choice_unless_it_says_otherwise() -> None:
    request = Request("id", "model", (1, 2), SamplingParams(max_tokens=1), seed=0, deadline=0.0)
    assert dict(request.outputs) == {0: ()}
    assert request.num_choices == 1
    assert dataclasses.replace(request, outputs={0: (), 4: (9,)}).num_choices == 2


def test_finish_reasons_have_the_numbers_of_the_wire() -> None:
    assert [int(reason) for reason in FinishReason] == [1, 2, 3, 4]
