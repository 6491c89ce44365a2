"""Checkpoints: sharded ones load alike, damaged ones are refused with what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from baton.core.errors import ModelLoadError
from baton.models.config import ConfigFile
from baton.models.registry import find_model
from baton.models.weights import Checkpoint
from fakes.tiny_models import (
    WITH_LOGPROBS,
    Feed,
    edit_config,
    make_runner,
    random_prompt,
    run_for_logprobs,
    save_model,
)

SHARD = "model-00002-of-"


def load(folder: Path) -> None:
    file = ConfigFile.read(folder)
    model = find_model(file)
    checkpoint = Checkpoint(folder, torch.float32, torch.device("cpu"))
    model(model.read_config(file), checkpoint)


def shard(folder: Path) -> Path:
    return next(folder.glob(f"{SHARD}*.safetensors"))


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def logprobs(folder: Path) -> np.ndarray:
    feed = Feed(random_prompt(11), list(range(4)))
    return run_for_logprobs(make_runner(folder), [feed.entry(11, WITH_LOGPROBS)])[0]


def test_shards_make_the_same_model_as_one_file(tmp_path: Path) -> None:
    save_model(tmp_path / "whole")
    save_model(tmp_path / "sharded", max_shard_size="40KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    assert np.array_equal(logprobs(tmp_path / "whole"), logprobs(tmp_path / "sharded"))


def test_head_of_a_tied_model_may_be_stored_or_not(tmp_path: Path) -> None:
    save_model(tmp_path, "llama-tied")
    without = logprobs(tmp_path)
    rewrite(tmp_path / "model.safetensors", lambda t: t.update({"lm_head.weight": torch.zeros(1)}))
    assert np.array_equal(without, logprobs(tmp_path))


def test_stored_rotary_buffers_are_ignored(tmp_path: Path) -> None:
    save_model(tmp_path)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(tmp_path / "model.safetensors", lambda t: t.update({name: torch.zeros(4)}))
    load(tmp_path)


def truncate(folder: Path) -> None:
    path = shard(folder)
    path.write_bytes(path.read_bytes()[:-100])


def fill_with_noise(folder: Path) -> None:
    shard(folder).write_bytes(b"\xff" * 5000)


def drop_tensor(folder: Path) -> None:
    rewrite(shard(folder), lambda tensors: tensors.pop(sorted(tensors)[0]))


def reshape_tensor(folder: Path) -> None:
    rewrite(shard(folder), lambda t: t.update({sorted(t)[0]: torch.zeros(3, 5)}))


def quantise_tensor(folder: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        name = sorted(tensors)[0]
        tensors[name] = tensors[name].to(torch.int8)

    rewrite(shard(folder), change)


def leave_only_pickle(folder: Path) -> None:
    for path in [*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"]:
        path.unlink()
    torch.save({}, folder / "pytorch_model.bin")


def leave_no_weights(folder: Path) -> None:
    leave_only_pickle(folder)
    (folder / "pytorch_model.bin").unlink()


def break_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": [1]}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: shard(folder).unlink(), [SHARD, "download"]),
        (truncate, [SHARD, "truncated", "download it again"]),
        (fill_with_noise, [SHARD, "download it again"]),
        (drop_tensor, ["model.layers", "incomplete", "download it again"]),
        (reshape_tensor, [SHARD, "model.layers", "[3, 5]"]),
        (quantise_tensor, [SHARD, "model.layers", "int8", "bfloat16"]),
        (leave_only_pickle, ["pytorch_model.bin", "pickle", "safetensors"]),
        (leave_no_weights, ["no safetensors"]),
        (break_index, ["model.safetensors.index.json", "weight_map"]),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_damaged_checkpoints_say_which_file_and_what_to_do(
    damage: Callable[[Path], None], words: list[str], tmp_path: Path
) -> None:
    save_model(tmp_path, dtype=torch.float32, max_shard_size="20KB")
    load(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelLoadError) as refusal:
        load(tmp_path)
    for word in [str(tmp_path), *words]:
        assert word in refusal.value.message


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, "qwen3", head_dim=8)
    edit_config(tmp_path, architectures=["LlamaForCausalLM"])
    with pytest.raises(ModelLoadError, match=re.escape("self_attn.k_norm.weight")):
        load(tmp_path)


def test_config_and_weights_must_agree_on_sizes(tmp_path: Path) -> None:
    save_model(tmp_path)
    edit_config(tmp_path, vocab_size=100)
    with pytest.raises(ModelLoadError, match=r"embed_tokens.*\[96, 32\].*\[100, 32\]"):
        load(tmp_path)
