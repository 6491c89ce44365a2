"""Angles of rotary position embeddings, and the scaled variants that are served.

Plain: theta ** (-2i / D) radians per position for pair i of D/2. `linear` divides it by a factor
(https://arxiv.org/abs/2306.15595). `llama3` divides the long wavelengths by a factor, leaves the
short ones, and blends between (Llama 3.1, https://arxiv.org/abs/2407.21783; the formula is that of
transformers' `modeling_rope_utils`).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from baton.core.errors import ModelLoadError

SERVED = ("default", "linear", "llama3")


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """`original_positions` is the context that the unscaled model was trained with."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_positions: int = 0

    @property
    def identity(self) -> str:
        """Equal for two models exactly when they rotate every position alike."""
        return json.dumps(asdict(self), sort_keys=True)

    def inverse_frequencies(self, dim: int) -> torch.Tensor:
        """Radians per position, [dim / 2] float64."""
        plain = self.theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        if self.kind == "default":
            return plain
        if self.kind == "linear":
            return plain / self.factor
        wavelength = 2 * math.pi / plain
        low, high = self.low_freq_factor, self.high_freq_factor
        # 0 for wavelengths beyond the trained context / low, 1 for those below it / high.
        smooth = ((self.original_positions / wavelength - low) / (high - low)).clamp(0, 1)
        return (1 - smooth) * plain / self.factor + smooth * plain


def read_rope(raw: dict[str, Any], path: str) -> RopeConfig:
    """From a config's `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling`.

    Raises ModelLoadError for variants that are not served.
    """
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    try:
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind not in SERVED:
            raise ModelLoadError(
                f"{path} has rope scaling {kind!r}; served are {', '.join(SERVED)}"
            )
        theta = float(scaling.get("rope_theta", raw.get("rope_theta", 10000.0)))
        partial = scaling.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0))
        if partial != 1.0:
            raise ModelLoadError(
                f"{path} has partial_rotary_factor {partial!r}; only whole heads are rotated here"
            )
        if kind == "default":
            return RopeConfig(theta)
        factor = float(scaling["factor"])
        if kind == "linear":
            return RopeConfig(theta, kind, factor)
        return RopeConfig(
            theta,
            kind,
            factor,
            float(scaling["low_freq_factor"]),
            float(scaling["high_freq_factor"]),
            int(scaling["original_max_position_embeddings"]),
        )
    except KeyError as error:
        raise ModelLoadError(f"{path}: rope scaling {kind!r} lacks {error.args[0]}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelLoadError(f"{path}: the rope settings cannot be read: {error}") from error


def rope_tables(
    inverse_frequencies: torch.Tensor, positions: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [T, D / 2] for `positions` [T]; float64 for float64, else float32.

    Angles are float64 until the end: at position 100,000 float32 would be off by 0.005 radians.
    """
    angles = positions.to(torch.float64).unsqueeze(1) * inverse_frequencies
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return angles.cos().to(wide), angles.sin().to(wide)
