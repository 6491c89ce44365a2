"""Engine and torch runner together: the tokens of transformers, however they are run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from baton.core.request import FinishReason, Request, SamplingParams
from baton.core.settings import EngineSettings
from baton.engine.engine import Engine
from fakes.tiny_models import make_runner, random_prompt, save_model

LENGTHS = [1, 3, 4, 8, 15, 16, 33, 60]
Outputs = dict[tuple[int, int], list[int]]  # (request, choice) to tokens


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("model")
    return folder, save_model(folder, "llama")


def generate(
    folder: Path,
    requests: Sequence[Request],
    *,
    kv_blocks: int = 200,
    budget: int = 512,
    together: bool = True,
) -> Outputs:
    """Tokens of every choice, with all requests at once or one after another."""
    settings = EngineSettings(
        block_size=4, kv_blocks=kv_blocks, max_batch_tokens=budget, num_threads=1
    )
    engine = Engine(settings, make_runner(folder, kv_blocks=kv_blocks), digest="test")
    outputs: Outputs = {(i, c): [] for i, r in enumerate(requests) for c in r.outputs}
    waves = [range(len(requests))] if together else [[i] for i in range(len(requests))]
    for wave in waves:
        for i in wave:
            engine.add(("session", i), requests[i])
        while engine.has_work:
            out = engine.step()
            assert not out.failures
            for row in out.rows:
                tokens = outputs[row.key[1], row.choice]
                assert row.position == len(tokens) + len(requests[row.key[1]].outputs[row.choice])
                tokens.append(row.token)
        engine.check_integrity()
    return outputs


def request(
    prompt: Sequence[int],
    outputs: Mapping[int, tuple[int, ...]] | None = None,
    seed: int = 11,
    **params: Any,
) -> Request:
    sampling = SamplingParams(
        **{"max_tokens": 12, "temperature": 0.0, "ignore_eos": True, **params}
    )
    return Request("request", "model", tuple(prompt), sampling, seed, math.inf, outputs or {0: ()})


def prompts() -> list[list[int]]:
    return [random_prompt(n, seed=n) for n in LENGTHS]


def test_greedy_tokens_are_those_of_transformers(model: tuple[Path, Any]) -> None:
    folder, reference = model
    found = generate(folder, [request(p) for p in prompts()], budget=20)
    for i, prompt in enumerate(prompts()):
        wanted = reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=12,
            min_new_tokens=12,
            eos_token_id=None,
            pad_token_id=0,
            do_sample=False,
        )[0, len(prompt) :].tolist()
        assert found[i, 0] == wanted


@pytest.mark.parametrize(
    "how",
    [
        {"together": False},
        {"budget": 7},
        {"budget": 33},
        {"kv_blocks": 30},  # too few for all: some are preempted
        {"kv_blocks": 22, "budget": 16},
    ],
    ids=str,
)
def test_seeded_tokens_do_not_depend_on_batch_chunks_or_preemption(
    how: dict[str, Any], model: tuple[Path, Any]
) -> None:
    requests = [
        request(p, seed=i, temperature=0.9, top_p=0.95, frequency_penalty=0.3, max_tokens=16)
        for i, p in enumerate(prompts())
    ]
    assert generate(model[0], requests, **how) == generate(model[0], requests)


def test_choices_fork_and_prefix_hits_keep_their_tokens(model: tuple[Path, Any]) -> None:
    prompt = random_prompt(22)
    forked = request(prompt, dict.fromkeys(range(3), ()), temperature=1.0)
    again = generate(model[0], [forked, forked], together=False)
    assert len({tuple(again[0, c]) for c in range(3)}) == 3
    alone = generate(model[0], [request(prompt, {2: ()}, temperature=1.0)])
    assert again[1, 2] == again[0, 2] == alone[0, 2]


def test_replayed_output_continues_with_the_same_tokens(model: tuple[Path, Any]) -> None:
    prompt = random_prompt(9)
    params = {"temperature": 1.0, "presence_penalty": 0.5, "top_k": 20}
    (whole,) = generate(model[0], [request(prompt, **params)]).values()
    (rest,) = generate(model[0], [request(prompt, {0: tuple(whole[:5])}, **params)]).values()
    assert rest == whole[5:]


def test_end_of_text_ends_a_choice_but_not_before_min_tokens(model: tuple[Path, Any]) -> None:
    engine = Engine(EngineSettings(block_size=4), make_runner(model[0]), digest="test")
    ends = {"ignore_eos": False, "logit_bias": {2: 100.0}}
    engine.add(("s", 0), request(random_prompt(5), **ends))
    engine.add(("s", 1), request(random_prompt(5), min_tokens=4, **ends))
    rows = []
    while engine.has_work:
        rows += engine.step().rows
    assert [r.token for r in rows if r.key[1] == 0] == [2]
    late = [r for r in rows if r.key[1] == 1]
    assert len(late) == 5 and late[-1].token == 2 and late[-1].finish is FinishReason.STOP
    assert all(r.token != 2 and r.finish is None for r in late[:-1])
