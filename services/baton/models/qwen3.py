"""Qwen 3: queries and keys are normalised for each head before they are rotated."""

from __future__ import annotations

from baton.models.config import ConfigFile, DecoderConfig, read_decoder
from baton.models.decoder import CausalLM
from baton.models.qwen2 import read_window


class Qwen3ForCausalLM(CausalLM):
    """No biases unless `attention_bias`; heads are 128 wide unless `head_dim` says otherwise."""

    @classmethod
    def read_config(cls, file: ConfigFile) -> DecoderConfig:
        bias = file.flag("attention_bias")
        return read_decoder(
            file,
            default_kv_heads=32,
            default_head_dim=128,
            qkv_bias=bias,
            o_bias=bias,
            qk_norm=True,
            window=read_window(file),
        )
