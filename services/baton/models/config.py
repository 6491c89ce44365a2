"""A decoder's shape, read from a Hugging Face `config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton.core import model_folder
from baton.core.errors import ModelLoadError
from baton.models.rope import RopeConfig, read_rope

DTYPES = ("bfloat16", "float16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """What tells one pre-norm, rotary, SwiGLU decoder from another. Sizes are elements."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_eps: float
    rope: RopeConfig
    max_positions: int
    tied_embeddings: bool
    dtype: str  # of the checkpoint
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    window: int | None = None  # tokens that attention looks back; None: all

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ModelLoadError(
                f"config.json: num_attention_heads ({self.num_heads}) is no multiple of "
                f"num_key_value_heads ({self.num_kv_heads})"
            )
        if self.head_dim % 2:
            raise ModelLoadError(f"config.json: head_dim ({self.head_dim}) is odd")


class ConfigFile:
    """`config.json` with typed access; every complaint names the file and the field."""

    def __init__(self, path: Path, raw: dict[str, Any]) -> None:
        self.path = path
        self.raw = raw

    @classmethod
    def read(cls, folder: Path) -> ConfigFile:
        """Raises ModelLoadError when the folder has no readable `config.json`."""
        config = cls(folder / "config.json", model_folder.config(folder))
        if config.raw.get("quantization_config"):
            raise config.error(
                "has a quantization_config; quantised checkpoints are not served, take the "
                "unquantised model"
            )
        return config

    def error(self, problem: str) -> ModelLoadError:
        return ModelLoadError(f"{self.path} {problem}")

    def size(self, name: str, default: int | None = None) -> int:
        """A positive whole number; `default` also stands in for null."""
        value = self.raw.get(name)
        if value is None:
            if default is None:
                raise self.error(f"lacks {name}")
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(f"has {name} = {value!r}; it must be a positive whole number")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.raw.get(name, default)
        if not isinstance(value, bool):
            raise self.error(f"has {name} = {value!r}; it must be true or false")
        return value

    def number(self, name: str, default: float) -> float:
        value = self.raw.get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.error(f"has {name} = {value!r}; it must be a number")
        return float(value)

    @property
    def architecture(self) -> str:
        names = self.raw.get("architectures")
        if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
            raise self.error(f"has architectures = {names!r}; it must name one")
        return names[0]

    @property
    def dtype(self) -> str:
        # "dtype" since transformers 5, "torch_dtype" before.
        value = self.raw.get("dtype") or self.raw.get("torch_dtype") or "float32"
        if value not in DTYPES:
            raise self.error(f"has dtype {value!r}; served are {', '.join(DTYPES)}")
        return str(value)


def read_decoder(
    file: ConfigFile,
    *,
    default_kv_heads: int | None = None,
    default_head_dim: int | None = None,
    qkv_bias: bool = False,
    o_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    window: int | None = None,
) -> DecoderConfig:
    """The fields that all families share, and the differences that the caller knows."""
    activation = file.raw.get("hidden_act", "silu")
    if activation != "silu":
        raise file.error(f"has hidden_act {activation!r}; only 'silu' is served")
    hidden_size, num_heads = file.size("hidden_size"), file.size("num_attention_heads")
    return DecoderConfig(
        vocab_size=file.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=file.size("intermediate_size"),
        num_layers=file.size("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=file.size("num_key_value_heads", default_kv_heads or num_heads),
        head_dim=file.size("head_dim", default_head_dim or hidden_size // num_heads),
        rms_eps=file.number("rms_norm_eps", 1e-6),
        rope=read_rope(file.raw, str(file.path)),
        max_positions=file.size("max_position_embeddings"),
        tied_embeddings=file.flag("tie_word_embeddings"),
        dtype=file.dtype,
        qkv_bias=qkv_bias,
        o_bias=o_bias,
        mlp_bias=mlp_bias,
        qk_norm=qk_norm,
        window=window,
    )
