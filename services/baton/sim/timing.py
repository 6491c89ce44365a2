"""How long a simulated worker computes: polynomials of the batch, as NVIDIA Dynamo's mocker has.

Source: ai-dynamo/dynamo, lib/mocker (perf model "polynomial", scheduler/vllm/core.rs). A pass costs
`prefill(new prompt tokens of the batch)` when it has any, and `decode(share of the KV pool that
running sequences hold)` when any of its sequences generates a token, those whose prompt it
completes included. Both add up; its tokens come out together at its end. A prefill worker's pass
has no second part (the first token falls out of the prompt's forward pass), and where KV is
received instead of computed there is no first part.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Polynomials:
    """Coefficients in milliseconds, highest power first."""

    prefill: tuple[float, float, float]
    decode: tuple[float, float, float]

    def prefill_s(self, num_tokens: float) -> float:
        """Seconds for `num_tokens` new prompt tokens in one pass; 0 for none."""
        if num_tokens <= 0:
            return 0.0
        a, b, c = self.prefill
        return max(0.0, (a * num_tokens + b) * num_tokens + c) * 1e-3

    def decode_s(self, share: float) -> float:
        """Seconds for one token of each sequence, with `share` (0 to 1) of the KV pool in use."""
        a, b, c = self.decode
        return max(1.0, (a * share + b) * share + c) * 1e-3


# The default of Dynamo 1.6.1's mocker.
MOCKER = Polynomials(
    prefill=(4.209989e-07, 1.518344e-02, 1.650142e01), decode=(-25.74, 54.01, 5.74)
)
