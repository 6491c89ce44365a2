"""Qwen 2 and 2.5: Llama with biases on queries, keys and values."""

from __future__ import annotations

from baton.models.config import ConfigFile, DecoderConfig, read_decoder
from baton.models.decoder import CausalLM


class Qwen2ForCausalLM(CausalLM):
    """A window counts only with `use_sliding_window`."""

    @classmethod
    def read_config(cls, file: ConfigFile) -> DecoderConfig:
        return read_decoder(file, default_kv_heads=32, qkv_bias=True, window=read_window(file))


def read_window(file: ConfigFile) -> int | None:
    """Qwen's attention window, used by its layers from `max_window_layers` on."""
    if not file.flag("use_sliding_window"):
        return None
    if file.size("max_window_layers", 28) >= file.size("num_hidden_layers"):
        return None
    return file.size("sliding_window", 4096)
