"""Attention over paged KV: projections, rotation and the calls into `baton_kernels`."""

from __future__ import annotations

import torch

from baton.models.config import DecoderConfig
from baton.models.inputs import ForwardInputs, GroupInputs
from baton.models.layers import Linear, RMSNorm
from baton.models.weights import Checkpoint
from baton_kernels import dispatch


class Attention:
    """Causal self-attention with grouped KV heads and rotary positions."""

    def __init__(self, checkpoint: Checkpoint, prefix: str, config: DecoderConfig) -> None:
        hidden, dim = config.hidden_size, config.head_dim
        self.num_heads, self.num_kv_heads, self.dim = config.num_heads, config.num_kv_heads, dim
        self.scale = dim**-0.5
        num_kv = self.num_kv_heads * dim
        parts = [("q_proj", self.num_heads * dim), ("k_proj", num_kv), ("v_proj", num_kv)]
        self.qkv = Linear.load(checkpoint, prefix, parts, hidden, bias=config.qkv_bias)
        self.out = Linear.load(
            checkpoint, prefix, [("o_proj", hidden)], self.num_heads * dim, bias=config.o_bias
        )
        self.q_norm = self.k_norm = None
        if config.qk_norm:
            self.q_norm = RMSNorm(checkpoint, f"{prefix}q_norm", dim, config.rms_eps)
            self.k_norm = RMSNorm(checkpoint, f"{prefix}k_norm", dim, config.rms_eps)

    def __call__(
        self, x: torch.Tensor, kv_cache: torch.Tensor, inputs: ForwardInputs, group: GroupInputs
    ) -> torch.Tensor:
        """`x` [T, hidden] to the same; stores the tokens' KV in `kv_cache` on the way.

        `kv_cache` [num_blocks, Hkv, 2, block_size, D] is this layer's view of the arena.
        """
        num_tokens = x.shape[0]
        qkv = self.qkv(x).view(num_tokens, self.num_heads + 2 * self.num_kv_heads, self.dim)
        q = qkv[:, : self.num_heads]
        if self.q_norm is not None and self.k_norm is not None:
            k = qkv[:, self.num_heads : -self.num_kv_heads]
            q.copy_(self.q_norm(q))
            k.copy_(self.k_norm(k))
        # Queries and keys lie side by side and are rotated in one go.
        dispatch.rope(qkv[:, : -self.num_kv_heads], inputs.cos, inputs.sin)
        kv = qkv[:, self.num_heads :].view(num_tokens, 2, self.num_kv_heads, self.dim)
        dispatch.store_kv(kv.transpose(1, 2), kv_cache, group.block_ids, group.offsets)
        attended = dispatch.paged_attention(q, kv_cache, group.plan, self.scale)
        return self.out(attended.view(num_tokens, -1))
