"""The parts of a decoder that hold weights. Shapes: T tokens of the flattened batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from baton.models.config import DecoderConfig
from baton.models.weights import Checkpoint
from baton_kernels import dispatch


class Linear:
    """`x @ weight.T + bias`; several outputs that share an input lie in one weight."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.weight = weight  # [out, in]
        self.bias = bias  # [out]

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        prefix: str,
        parts: Sequence[tuple[str, int]],
        num_inputs: int,
        *,
        bias: bool = False,
    ) -> Linear:
        """One layer from `parts` (name, outputs), stacked in that order."""
        weights = [checkpoint.tensor(f"{prefix}{n}.weight", (out, num_inputs)) for n, out in parts]
        biases = [checkpoint.tensor(f"{prefix}{n}.bias", (out,)) for n, out in parts if bias]
        return cls(_stack(weights), _stack(biases) if bias else None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


class RMSNorm:
    """Root mean square normalisation of the last dimension."""

    def __init__(self, checkpoint: Checkpoint, name: str, size: int, eps: float) -> None:
        self.weight = checkpoint.tensor(f"{name}.weight", (size,))
        self.eps = eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return dispatch.rms_norm(x, self.weight, self.eps)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(norm(x + residual), x + residual)`."""
        return dispatch.add_rms_norm(x, residual, self.weight, self.eps)


class MLP:
    """SwiGLU feed-forward: `down(silu(gate(x)) * up(x))`."""

    def __init__(self, checkpoint: Checkpoint, prefix: str, config: DecoderConfig) -> None:
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_up = Linear.load(
            checkpoint, prefix, [("gate_proj", inner), ("up_proj", inner)], hidden, bias=bias
        )
        self.down = Linear.load(checkpoint, prefix, [("down_proj", hidden)], inner, bias=bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(dispatch.silu_mul(self.gate_up(x)))


def _stack(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
