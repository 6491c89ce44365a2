"""What a config may say, and what is refused with which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from baton.core.errors import ModelLoadError
from baton.models.config import ConfigFile, DecoderConfig
from baton.models.registry import MODELS, find_model

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "max_position_embeddings": 512,
}
QWEN = LLAMA | {"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 4}


def read(folder: Path, config: dict[str, Any]) -> DecoderConfig:
    (folder / "config.json").write_text(json.dumps(config))
    file = ConfigFile.read(folder)
    return find_model(file).read_config(file)


def test_missing_fields_mean_what_transformers_makes_of_them(tmp_path: Path) -> None:
    config = read(tmp_path, LLAMA)
    assert (config.num_kv_heads, config.head_dim, config.rms_eps) == (8, 8, 1e-6)
    assert (config.rope.theta, config.rope.kind, config.dtype) == (10000.0, "default", "float32")
    assert not (config.tied_embeddings or config.qkv_bias or config.qk_norm or config.window)


def test_fields_of_older_transformers_are_read(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        LLAMA
        | {
            "torch_dtype": "bfloat16",
            "rope_theta": 5e5,
            "rope_scaling": {"type": "linear", "factor": 2},
        },
    )
    assert (config.dtype, config.rope.theta, config.rope.factor) == ("bfloat16", 5e5, 2.0)


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({"architectures": ["MistralForCausalLM"], "sliding_window": None}, None),
        ({"architectures": ["MistralForCausalLM"]}, 4096),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 128}, 128),
        ({"sliding_window": 128}, None),
        ({"sliding_window": 128, "use_sliding_window": True, "max_window_layers": 2}, None),
        ({"sliding_window": 128, "use_sliding_window": True, "max_window_layers": 1}, 128),
    ],
)
def test_windows_count_only_where_the_family_uses_them(
    changes: dict[str, Any], window: int | None, tmp_path: Path
) -> None:
    assert read(tmp_path, QWEN | changes).window == window


def test_ropes_that_differ_have_different_identities(tmp_path: Path) -> None:
    scaling = {"rope_type": "linear", "factor": 2.0}
    plain = read(tmp_path, LLAMA).rope.identity
    assert plain == read(tmp_path, LLAMA | {"rope_theta": 10000}).rope.identity
    assert plain != read(tmp_path, LLAMA | {"rope_theta": 20000}).rope.identity
    assert plain != read(tmp_path, LLAMA | {"rope_scaling": scaling}).rope.identity


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, ["GPT2LMHeadModel", *MODELS]),
        ({"architectures": None}, ["architectures"]),
        ({"architectures": ["A", "B"]}, ["architectures", "one"]),
        ({"vocab_size": None}, ["lacks vocab_size"]),
        ({"num_hidden_layers": "two"}, ["num_hidden_layers", "'two'"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers", "positive"]),
        ({"num_key_value_heads": 3}, ["num_attention_heads (8)", "num_key_value_heads (3)"]),
        ({"head_dim": 7}, ["head_dim (7)", "odd"]),
        ({"hidden_act": "gelu"}, ["hidden_act", "gelu", "silu"]),
        ({"torch_dtype": "int8"}, ["int8", "bfloat16"]),
        ({"tie_word_embeddings": "yes"}, ["tie_word_embeddings", "true or false"]),
        ({"rms_norm_eps": "small"}, ["rms_norm_eps", "number"]),
        ({"quantization_config": {"bits": 4}}, ["quantization_config", "unquantised"]),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, ["yarn", "llama3"]),
        ({"rope_scaling": {"rope_type": "linear"}}, ["linear", "lacks factor"]),
        ({"rope_scaling": {"rope_type": "linear", "factor": "x"}}, ["rope"]),
        ({"rope_scaling": "linear"}, ["rope"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    changes: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError) as refusal:
        read(tmp_path, LLAMA | changes)
    for word in ["config.json", *words]:
        assert word in refusal.value.message


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_folder_without_a_readable_config_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        ConfigFile.read(tmp_path)
