"""Mistral: Llama with an attention window in its first version."""

from __future__ import annotations

from baton.models.config import ConfigFile, DecoderConfig, read_decoder
from baton.models.decoder import CausalLM


class MistralForCausalLM(CausalLM):
    """A config without `sliding_window` means 4096, without `num_key_value_heads` 8."""

    @classmethod
    def read_config(cls, file: ConfigFile) -> DecoderConfig:
        no_window = file.raw.get("sliding_window", 4096) is None
        window = None if no_window else file.size("sliding_window", 4096)
        return read_decoder(file, default_kv_heads=8, window=window)
