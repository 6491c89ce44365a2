"""Llama 1 to 3 and everything that kept its architecture."""

from __future__ import annotations

from baton.models.config import ConfigFile, DecoderConfig, read_decoder
from baton.models.decoder import CausalLM


class LlamaForCausalLM(CausalLM):
    """The plain decoder; `attention_bias` and `mlp_bias` are optional."""

    @classmethod
    def read_config(cls, file: ConfigFile) -> DecoderConfig:
        bias = file.flag("attention_bias")
        return read_decoder(file, qkv_bias=bias, o_bias=bias, mlp_bias=file.flag("mlp_bias"))
