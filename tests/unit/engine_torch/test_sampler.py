"""Tokens from logits: the distribution, the filters, and independence of the rest of the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from baton.core.request import SamplingParams, TokenLogprobs
from baton.engine.batch import SampledToken, SampleSpec
from baton.engine.sampler import Sampler, uniform

EOS = 3


def spec(
    position: int = 0,
    *,
    seed: int = 1,
    choice: int = 0,
    output: Sequence[int] = (),
    **params: Any,
) -> SampleSpec:
    full = SamplingParams(**{"max_tokens": 100, **params})
    return SampleSpec(choice, position, seed, full, output, prompt_len=4)


def draw(rows: Any, specs: Sequence[SampleSpec], dtype: torch.dtype = torch.float64) -> list[int]:
    return [s.token for s in sample(rows, specs, dtype)]


def sample(
    rows: Any, specs: Sequence[SampleSpec], dtype: torch.dtype = torch.float64
) -> list[SampledToken]:
    logits = torch.tensor(rows, dtype=dtype)
    return Sampler(logits.shape[1], frozenset({EOS})).sample(logits, specs)


def drawn_often(row: Sequence[float], num: int = 4000, **params: Any) -> np.ndarray:
    """Shares of each token over `num` positions of one output."""
    tokens = draw([row] * num, [spec(i, **params) for i in range(num)])
    return np.bincount(tokens, minlength=len(row)) / num


def test_uniform_numbers_are_those_that_every_build_draws() -> None:
    # From an independent computation: another value would change every seeded output.
    assert uniform(0, 0, 0) == 0.5962519294165706
    assert uniform(2**64 + 5, 1, 2) == uniform(5, 1, 2)
    assert uniform(-1, 0, 0) == uniform(2**64 - 1, 0, 0)


def test_uniform_numbers_fill_the_interval_and_do_not_repeat() -> None:
    numbers = [uniform(s, c, p) for s in range(10) for c in range(10) for p in range(100)]
    assert len(set(numbers)) == len(numbers)
    assert 0 <= min(numbers) < 0.001 and 0.999 < max(numbers) < 1
    shares = np.histogram(numbers, bins=10, range=(0, 1))[0] / len(numbers)
    assert np.abs(shares - 0.1).max() < 0.012


def test_temperature_zero_takes_the_likeliest_and_the_lowest_id_of_equals() -> None:
    rows = [[0.0, 2.0, 1.0, 2.0], [5.0, 2.0, 1.0, 2.0]]
    assert draw(rows, [spec(temperature=0.0), spec(temperature=0.0)]) == [1, 0]
    assert draw(rows, [spec(temperature=1e-9), spec(temperature=1e-300)]) == [1, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_follow_the_softmax_at_the_temperature(temperature: float) -> None:
    row = [0.0, 1.0, -1.0, 0.5, -math.inf]
    expected = torch.tensor(row).div(temperature).softmax(-1).numpy()
    shares = drawn_often(row, temperature=temperature)
    assert np.abs(shares - expected).max() < 0.025
    assert shares[4] == 0


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({"top_k": 1}, {4}),
        ({"top_k": 2}, {2, 4}),
        ({"top_k": 0}, {0, 1, 2, 3, 4}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.39}, {4}),
        ({"top_p": 0.41}, {2, 4}),
        ({"top_p": 0.69}, {2, 4}),
        ({"top_p": 0.71}, {1, 2, 3, 4}),  # 1 and 3 tie
        ({"top_p": 1e-9}, {4}),
        ({"min_p": 0.26}, {2, 4}),
        ({"min_p": 0.248}, {1, 2, 3, 4}),
        ({"min_p": 1.0}, {4}),
        ({"top_k": 2, "top_p": 0.5}, {4}),  # of what top_k left: 4/7 is above one half
        ({"top_k": 3, "min_p": 0.5}, {2, 4}),
    ],
    ids=str,
)
def test_filters_keep_the_right_tokens(params: dict[str, float], kept: set[int]) -> None:
    probs = np.array([0.099, 0.1, 0.3, 0.1, 0.401])
    row = np.log(probs).tolist()
    shares = drawn_often(row, num=1000, **params)
    assert set(np.flatnonzero(shares)) == kept
    expected = np.where([i in kept for i in range(5)], probs, 0)
    assert np.abs(shares - expected / expected.sum()).max() < 0.05


def test_logit_bias_moves_tokens_and_unknown_ids_do_nothing() -> None:
    row = [1.0, 2.0, 3.0, 4.0]
    biased = spec(temperature=0.0, logit_bias={0: 5.0, 3: -100.0, 77: 100.0})
    assert draw([row, row], [biased, spec(temperature=0.0)]) == [0, 3]


def test_penalties_count_the_output_so_far() -> None:
    row = [1.0, 1.5, 0.0, 0.9]
    twice = {"temperature": 0.0, "output": [1, 1, 0]}
    assert draw([row], [spec(3, presence_penalty=0.2, **twice)]) == [1]
    # 1 loses 2 * 0.4, 0 loses 0.4: 3 is left on top.
    assert draw([row], [spec(3, frequency_penalty=0.4, **twice)]) == [3]
    assert draw([row], [spec(3, presence_penalty=-1.0, temperature=0.0, output=[3])]) == [3]


def test_endings_are_masked_until_min_tokens() -> None:
    row = [0.0, 1.0, 2.0, 9.0]  # 3 is EOS
    params = {"temperature": 0.0, "min_tokens": 2, "stop_token_ids": (2, 500)}
    assert draw([row] * 3, [spec(i, **params) for i in range(3)]) == [1, 1, 3]
    assert draw([row], [spec(0, ignore_eos=True, **params)]) == [3]


def test_logprobs_are_of_the_raw_logits_best_first() -> None:
    row = [0.0, 2.0, 1.0, 2.0]
    raw = torch.tensor(row, dtype=torch.float64).log_softmax(-1).tolist()
    asked = spec(
        temperature=0.0, logit_bias={0: 50.0}, presence_penalty=1.0, logprobs=True, top_logprobs=3
    )
    chosen_only = spec(temperature=0.0, logprobs=True)
    found = sample([row] * 3, [asked, spec(temperature=0.0), chosen_only])
    assert [s.token for s in found] == [0, 1, 1]
    assert found[0].logprobs == TokenLogprobs(
        pytest.approx(raw[0]), (1, 3, 2), pytest.approx((raw[1], raw[3], raw[2]))
    )
    assert found[1].logprobs is None
    assert found[2].logprobs == TokenLogprobs(pytest.approx(raw[1]))


def mixed_specs(num: int) -> list[SampleSpec]:
    rng = np.random.default_rng(5)
    return [
        spec(
            int(rng.integers(0, 9)),
            seed=int(rng.integers(0, 2**63)),
            choice=int(rng.integers(0, 4)),
            output=rng.integers(0, 50, 6).tolist(),
            temperature=float(rng.choice([0.0, 0.7, 1.3])),
            top_k=int(rng.choice([0, 5, 20])),
            top_p=float(rng.choice([1.0, 0.9, 0.4])),
            min_p=float(rng.choice([0.0, 0.1])),
            presence_penalty=float(rng.choice([0.0, 1.1])),
            frequency_penalty=float(rng.choice([0.0, -0.4])),
            logit_bias={int(rng.integers(0, 50)): 3.0} if rng.random() < 0.3 else {},
            min_tokens=int(rng.choice([0, 8])),
            logprobs=bool(rng.random() < 0.5),
            top_logprobs=int(rng.choice([0, 2, 7])),
        )
        for _ in range(num)
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_its_neighbours(dtype: torch.dtype) -> None:
    specs = mixed_specs(40)
    rows = np.random.default_rng(6).normal(0, 2, (40, 50))
    together = sample(rows, specs, dtype)
    alone = [sample(rows[i : i + 1], specs[i : i + 1], dtype)[0] for i in range(40)]
    assert together == alone
    order = np.random.default_rng(7).permutation(40)
    shuffled = sample(rows[order], [specs[i] for i in order], dtype)
    assert shuffled == [together[i] for i in order]


def test_seed_choice_and_position_each_change_the_draw() -> None:
    row = [0.0] * 50
    base = [spec(i) for i in range(20)]
    for other in (
        [spec(i, seed=2) for i in range(20)],
        [spec(i, choice=1) for i in range(20)],
        [spec(i + 20) for i in range(20)],
    ):
        assert draw([row] * 20, base) != draw([row] * 20, other)


def test_the_last_token_is_reached_and_never_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baton.engine.sampler.uniform", lambda *_: 1 - 2.0**-53)
    assert draw([[0.0, 1.0, 2.0, -math.inf]], [spec()]) == [2]
    monkeypatch.setattr("baton.engine.sampler.uniform", lambda *_: 0.0)
    assert draw([[-math.inf, 1.0, 2.0, 0.0]], [spec()]) == [1]
