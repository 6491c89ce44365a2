"""Every family's log-probabilities against transformers, prefilled in chunks and decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from baton.core import model_folder
from baton.engine.batch import Batch
from fakes.tiny_models import (
    FAMILIES,
    WITH_LOGPROBS,
    Feed,
    make_runner,
    random_prompt,
    reference_logprobs,
    run_for_logprobs,
    save_model,
)

# transformers normalises in float32 even in a float64 model.
TOLERANCE = {"float64": 1e-5, "float32": 1e-3}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_position_has_the_logits_of_transformers(
    family: str, dtype: str, tmp_path: Path
) -> None:
    model = save_model(tmp_path, family, getattr(torch, dtype))
    runner = make_runner(tmp_path, dtype)
    blocks = np.random.default_rng(1).permutation(64)
    # The first is decoded token by token, the others come in chunks beside it.
    feeds = [
        Feed(random_prompt(30, seed=0), blocks[:8].tolist()),
        Feed(random_prompt(41, seed=1), blocks[8:19].tolist()),
        Feed(random_prompt(7, seed=2), blocks[19:21].tolist()),
        Feed(random_prompt(64, seed=3), blocks[21:37].tolist()),
    ]
    expected = [reference_logprobs(model, feed.tokens) for feed in feeds]
    chunks = np.random.default_rng(2)
    seen = 0
    while any(feed.num_computed < len(feed.tokens) for feed in feeds):
        entries, wanted = [], []
        for i, feed in enumerate(feeds):
            left = len(feed.tokens) - feed.num_computed
            num = min(left, 1 if i == 0 else int(chunks.integers(0, 14)))
            if num:
                entries.append(feed.entry(num, WITH_LOGPROBS))
                wanted.append(expected[i][feed.num_computed - 1])
        for found, want in zip(run_for_logprobs(runner, entries), wanted, strict=True):
            np.testing.assert_allclose(found, want, atol=TOLERANCE[dtype], rtol=0)
            seen += 1
    assert seen > 40


def test_long_chunks_are_cut_into_tiles_that_agree(tmp_path: Path) -> None:
    model = save_model(tmp_path, "llama", max_position_embeddings=512)
    runner = make_runner(tmp_path, kv_blocks=128)
    feed = Feed(random_prompt(400), list(range(100)))
    expected = reference_logprobs(model, feed.tokens)
    for num in (300, 100):
        (found,) = run_for_logprobs(runner, [feed.entry(num, WITH_LOGPROBS)])
        np.testing.assert_allclose(found, expected[feed.num_computed - 1], atol=1e-5, rtol=0)


def test_bfloat16_stays_near_float32(tmp_path: Path) -> None:
    model = save_model(tmp_path, "qwen3", torch.bfloat16)
    prompt = random_prompt(40)
    rounded = reference_logprobs(model, prompt)[-1]
    exact = reference_logprobs(model.float(), prompt)[-1]
    runner = make_runner(tmp_path, "bfloat16")
    feed = Feed(prompt, list(range(10)))
    run_for_logprobs(runner, [feed.entry(33, WITH_LOGPROBS)])
    (found,) = run_for_logprobs(runner, [feed.entry(7, WITH_LOGPROBS)])
    assert np.abs(found - exact).max() < 2 * np.abs(rounded - exact).max() + 0.02


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 4.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_scaled_positions_agree_with_transformers(rope: dict[str, float], tmp_path: Path) -> None:
    model = save_model(tmp_path, rope_parameters={"rope_theta": 500.0, **rope}, head_dim=16)
    runner = make_runner(tmp_path)
    feed = Feed(random_prompt(200), list(range(50)))
    (found,) = run_for_logprobs(runner, [feed.entry(200, WITH_LOGPROBS)])
    plain = save_model(tmp_path / "plain", rope_parameters={"rope_theta": 500.0}, head_dim=16)
    unscaled = reference_logprobs(plain, feed.tokens)[-1]
    assert np.abs(found - unscaled).max() > 0.01
    np.testing.assert_allclose(found, reference_logprobs(model, feed.tokens)[-1], atol=1e-4, rtol=0)


def test_embedded_model_agrees_with_transformers() -> None:
    folder = model_folder.resolve("baton-tiny")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    prompt = random_prompt(70)
    expected = reference_logprobs(model, prompt)[-1]
    best = np.argsort(-expected)[:96]  # as many as WITH_LOGPROBS asks for
    runner = make_runner(folder)
    feed = Feed(prompt, list(range(18)))
    runner.run(Batch([feed.entry(50)]))
    (sampled,) = runner.run(Batch([feed.entry(20, WITH_LOGPROBS)]))
    assert sampled.logprobs is not None and sampled.token == best[0]
    np.testing.assert_allclose(sampled.logprobs.top_logprobs, expected[best], atol=1e-4, rtol=0)
