"""The torch runner: results depend on a sequence's tokens, not on how or beside what they ran."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from baton.core.errors import ConfigError, ModelLoadError
from baton.core.request import SamplingParams
from baton.core.settings import EngineSettings, ModelSettings
from baton.engine.batch import Batch, BlockCopy
from baton.engine.model_runner import ModelRunner, pick_dtype
from baton.engine.runner import LayerPieces
from fakes.tiny_models import (
    BLOCK_SIZE,
    VOCAB_SIZE,
    WITH_LOGPROBS,
    Feed,
    edit_config,
    make_runner,
    random_prompt,
    reference_logprobs,
    run_for_logprobs,
    save_model,
)

# float64 sums in another order differ by this much at most.
ROUNDING = 1e-11


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_model(path, "qwen3")
    return path


@pytest.fixture
def runner(folder: Path) -> ModelRunner:
    return make_runner(folder)


def last_logprobs(runner: ModelRunner, feed: Feed, *chunks: int) -> np.ndarray:
    """Compute the feed in chunks, the last of which takes the rest."""
    for num in chunks:
        runner.run(Batch([feed.entry(num)]))
    rest = len(feed.tokens) - feed.num_computed
    return run_for_logprobs(runner, [feed.entry(rest, WITH_LOGPROBS)])[0]


def splits(length: int) -> Iterator[tuple[int, ...]]:
    yield ()
    yield (1,) * (length - 1)
    yield (4, 4, 4)
    yield (length - 1,)
    yield (3, 9, 1)


def test_chunks_do_not_change_the_result(runner: ModelRunner) -> None:
    tokens = random_prompt(21)
    results = [
        last_logprobs(runner, Feed(tokens, list(range(8 * i, 8 * i + 6))), *chunks)
        for i, chunks in enumerate(splits(21))
    ]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], atol=ROUNDING, rtol=0)


def test_the_place_of_blocks_does_not_change_the_result(runner: ModelRunner) -> None:
    tokens = random_prompt(21)
    in_order = last_logprobs(runner, Feed(tokens, list(range(6))), 10)
    scattered = last_logprobs(runner, Feed(tokens, [63, 7, 40, 41, 9, 22]), 10)
    assert np.array_equal(in_order, scattered)


def test_a_prefix_hit_reads_the_kv_of_the_sequence_that_wrote_it(runner: ModelRunner) -> None:
    prefix, rest = random_prompt(16, seed=1), random_prompt(7, seed=2)
    alone = last_logprobs(runner, Feed(prefix + rest, list(range(6))))
    last_logprobs(runner, Feed(prefix + random_prompt(3, seed=3), [10, 11, 12, 13, 14]))
    hit = Feed(prefix + rest, [10, 11, 12, 13, 20, 21], num_computed=16)
    np.testing.assert_allclose(last_logprobs(runner, hit), alone, atol=ROUNDING, rtol=0)


def test_neighbours_in_the_batch_do_not_change_the_result(runner: ModelRunner) -> None:
    lengths = [1, 5, 9, 17, 30, 2, 12]
    starts = [0, 4, 8, 13, 29, 0, 3]
    feeds, alone = [], []
    for i, (length, start) in enumerate(zip(lengths, starts, strict=True)):
        feed = Feed(random_prompt(length, seed=i), list(range(9 * i, 9 * i + 8)))
        alone.append(last_logprobs(runner, feed, *([start] if start else [])))
        feed.num_computed = start
        feeds.append(feed)
    entries = [f.entry(len(f.tokens) - f.num_computed, WITH_LOGPROBS) for f in feeds]
    for together, want in zip(run_for_logprobs(runner, entries), alone, strict=True):
        np.testing.assert_allclose(together, want, atol=ROUNDING, rtol=0)


def test_what_blocks_held_before_does_not_matter(runner: ModelRunner) -> None:
    tokens = random_prompt(10)
    clean = last_logprobs(runner, Feed(tokens, [0, 1, 2]), 5)
    runner.arenas()[0].view[:] = 0xFF  # NaN in every type
    dirty = last_logprobs(runner, Feed(tokens, [3, 4, 5]), 5)
    assert np.array_equal(clean, dirty)
    # What a handoff would send holds nothing of other requests either.
    assert not np.isnan(runner.arenas()[0].view[5].view(np.float64)).any()


def test_copied_block_continues_like_its_source(runner: ModelRunner) -> None:
    tokens = random_prompt(12)
    whole = last_logprobs(runner, Feed(tokens, [0, 1, 2]), 6)
    last_logprobs(runner, Feed(tokens[:6], [10, 11]))
    # Block 11 is shared and half full; its copy takes the next tokens.
    feed = Feed(tokens, [10, 12, 13], num_computed=6)
    batch = Batch([feed.entry(6, WITH_LOGPROBS)], copies=[BlockCopy(0, 11, 12)])
    before = runner.arenas()[0].view[11].copy()
    (sampled,) = runner.run(batch)
    assert sampled.logprobs is not None
    assert sampled.logprobs.top_logprobs[0] == pytest.approx(whole.max(), abs=ROUNDING)
    assert np.array_equal(runner.arenas()[0].view[11], before)


def test_chained_copies_read_sources_first(runner: ModelRunner) -> None:
    view = runner.arenas()[0].view
    view[1], view[2] = 1, 2
    assert runner.run(Batch([], copies=[BlockCopy(0, 1, 3), BlockCopy(0, 2, 1)])) == []
    assert (view[3] == 1).all() and (view[1] == 2).all()


def test_forking_entry_samples_each_choice_from_the_same_logits(runner: ModelRunner) -> None:
    params = SamplingParams(max_tokens=1, temperature=1.5)
    prompts = [random_prompt(9, seed=1), random_prompt(6, seed=2)]
    forking = [Feed(prompts[0], [0, 1, 2]), Feed(prompts[1], [3, 4])]
    quiet = Feed(random_prompt(8), [5, 6])
    entries = [
        forking[0].entry(9, params, seeds=range(5)),
        quiet.entry(8),
        forking[1].entry(6, params, seeds=[3]),
    ]
    tokens = [s.token for s in runner.run(Batch(entries))]
    assert len(tokens) == 6 and len(set(tokens[:5])) > 1
    for i, seed in enumerate(range(5)):
        entry = Feed(prompts[0], [7, 8, 9]).entry(9, params, seeds=[0] * i + [seed])
        assert runner.run(Batch([entry]))[-1].token == tokens[i]


def test_entries_without_samples_return_nothing(runner: ModelRunner) -> None:
    assert runner.run(Batch([Feed(random_prompt(5), [0, 1]).entry(5)])) == []


def test_pieces_of_layers_are_announced_when_their_kv_is_final(folder: Path) -> None:
    runner = make_runner(folder)
    announced: list[tuple[int, list[bool]]] = []

    def done(piece: int) -> None:
        layers = runner.ranks[0].arenas[0].layers
        announced.append((piece, [bool(layer[0].any()) for layer in layers]))

    batch = Batch([Feed(random_prompt(3), [0]).entry(3)])
    runner.run(batch, LayerPieces(3, done))
    assert announced == [(0, [True, False, False]), (1, [True, True, False])]
    announced.clear()
    runner.run(batch, LayerPieces(1, done))
    assert announced == [], "the end of the last piece is that of the run"


def test_arenas_are_the_memory_that_attention_reads(folder: Path, runner: ModelRunner) -> None:
    (arena,) = runner.arenas()
    (group,) = runner.groups
    assert (arena.group, arena.memory, arena.device_id) == (0, "DRAM", 0)
    assert arena.view.shape == (arena.num_blocks, arena.block_bytes) == (64, group.block_bytes)
    assert arena.view.ctypes.data == arena.address and arena.address % mmap.PAGESIZE == 0
    # KV written by another worker's transfer continues the sequence here.
    other = make_runner(folder)
    tokens = random_prompt(11)
    alone = last_logprobs(other, Feed(tokens, [0, 1, 2]), 10)
    arena.view[[50, 3, 4]] = other.arenas()[0].view[[0, 1, 2]]
    moved = Feed(tokens, [50, 3, 4], num_computed=10)
    assert np.array_equal(last_logprobs(runner, moved), alone)


def test_runner_describes_the_model(folder: Path, runner: ModelRunner) -> None:
    assert (runner.vocab_size, runner.max_model_len) == (VOCAB_SIZE, 256)
    assert runner.eos_token_ids == {2}
    assert runner.groups[0].block_size == BLOCK_SIZE
    assert runner.identity == make_runner(folder).identity
    assert '"theta": 10000.0' in runner.rope


def start(folder: Path, engine: EngineSettings | None = None, **model: object) -> ModelRunner:
    settings = ModelSettings(source=str(folder), **{"device": "cpu", **model})  # type: ignore[arg-type]
    return ModelRunner(settings, engine or EngineSettings(kv_blocks=4))


def test_memory_setting_counts_in_whole_blocks(folder: Path) -> None:
    block = start(folder).groups[0].block_bytes
    assert start(folder, EngineSettings(kv_memory_bytes=5 * block - 1)).num_blocks == (4,)
    with pytest.raises(ConfigError, match=f"--kv-memory.*{2 * block}"):
        start(folder, EngineSettings(kv_memory_bytes=2 * block - 1))


def test_a_pool_beyond_memory_is_refused_before_weights_are_read(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"the KV pool needs .*GiB.*--kv-blocks"):
        start(folder, EngineSettings(kv_blocks=10**9))


def test_context_is_bounded_by_the_model(folder: Path, tmp_path: Path) -> None:
    assert start(folder, max_model_len=100).max_model_len == 100
    with pytest.raises(ConfigError, match=r"--max-model-len 257 .* 256 positions"):
        start(folder, max_model_len=257)
    save_model(tmp_path, "mistral")
    edit_config(tmp_path, sliding_window=64)
    with pytest.raises(ModelLoadError, match=r"window of 64 .*--max-model-len 64"):
        start(tmp_path)
    assert start(tmp_path, max_model_len=64).max_model_len == 64


def test_settings_that_cannot_hold_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="deterministic"):
        start(folder, EngineSettings(kv_blocks=4, deterministic=True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"--device cuda.*no GPU"):
        start(folder, device="cuda")


@pytest.mark.parametrize(
    ("of_checkpoint", "fast", "picked"),
    [
        ("bfloat16", True, "bfloat16"),
        ("bfloat16", False, "float32"),
        ("float16", True, "float32"),
        ("float32", True, "float32"),
        ("float64", True, "float64"),
    ],
)
def test_auto_takes_the_checkpoints_type_unless_it_is_slow_here(
    of_checkpoint: str, fast: bool, picked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert pick_dtype("auto", of_checkpoint, torch.device("cpu")) == picked
    assert pick_dtype("auto", of_checkpoint, torch.device("cuda")) == of_checkpoint
    assert pick_dtype("float16", of_checkpoint, torch.device("cpu")) == "float16"


def test_num_threads_is_obeyed(folder: Path) -> None:
    before = torch.get_num_threads()
    try:
        start(folder, EngineSettings(kv_blocks=4, num_threads=3))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_model_changed_in_one_weight_has_other_logits_than_reference(tmp_path: Path) -> None:
    """Guards the comparison itself: it would notice a wrong weight."""
    model = save_model(tmp_path)
    runner = make_runner(tmp_path)
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[0, 0] += 0.5
    tokens = random_prompt(12)
    found = last_logprobs(runner, Feed(tokens, [0, 1, 2]))
    assert np.abs(found - reference_logprobs(model, tokens)[-1]).max() > 1e-3
