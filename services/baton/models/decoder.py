"""The decoder that all served families share: pre-norm blocks of attention and SwiGLU."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from baton.models.attention import Attention
from baton.models.config import ConfigFile, DecoderConfig
from baton.models.inputs import ForwardInputs
from baton.models.layers import MLP, Linear, RMSNorm
from baton.models.weights import Checkpoint


class DecoderLayer:
    """Attention, then feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, checkpoint: Checkpoint, prefix: str, config: DecoderConfig) -> None:
        size, eps = config.hidden_size, config.rms_eps
        self.attention_norm = RMSNorm(checkpoint, f"{prefix}input_layernorm", size, eps)
        self.attention = Attention(checkpoint, f"{prefix}self_attn.", config)
        self.mlp_norm = RMSNorm(checkpoint, f"{prefix}post_attention_layernorm", size, eps)
        self.mlp = MLP(checkpoint, f"{prefix}mlp.", config)


class CausalLM(ABC):
    """Token ids in, logits out. Subclasses say how their family's config reads."""

    def __init__(self, config: DecoderConfig, checkpoint: Checkpoint) -> None:
        """Load all weights. Raises ModelLoadError."""
        self.config = config
        shape = (config.vocab_size, config.hidden_size)
        self.embedding = checkpoint.tensor("model.embed_tokens.weight", shape)
        self.layers = [
            DecoderLayer(checkpoint, f"model.layers.{i}.", config) for i in range(config.num_layers)
        ]
        self.norm = RMSNorm(checkpoint, "model.norm", config.hidden_size, config.rms_eps)
        if config.tied_embeddings:
            checkpoint.skip("lm_head.weight")
            self.lm_head = Linear(self.embedding)
        else:
            self.lm_head = Linear(checkpoint.tensor("lm_head.weight", shape))
        checkpoint.check_all_used()
        self.inverse_frequencies = config.rope.inverse_frequencies(config.head_dim).to(
            self.embedding.device
        )

    @classmethod
    @abstractmethod
    def read_config(cls, file: ConfigFile) -> DecoderConfig:
        """The family's reading of `config.json`. Raises ModelLoadError."""

    def forward(
        self,
        inputs: ForwardInputs,
        caches: Sequence[torch.Tensor],
        *,
        num_pieces: int = 1,
        on_layers_done: Callable[[int], None] | None = None,
    ) -> torch.Tensor:
        """Logits [N, vocab] of the rows that want them; the KV of all T tokens is stored.

        `caches[i]` is layer i's view of the arena. The layers run in `num_pieces` pieces, no more
        than there are layers; `on_layers_done(piece)` is called after each but the last, when the
        KV of its layers is stored (on CUDA: queued on the current stream).
        """
        group = inputs.groups[0]
        bounds = {len(self.layers) * (p + 1) // num_pieces: p for p in range(num_pieces - 1)}
        residual = F.embedding(inputs.token_ids, self.embedding)
        x = self.layers[0].attention_norm(residual)
        for i, layer in enumerate(self.layers):
            if i:
                x, residual = layer.attention_norm.add(x, residual)
            x = layer.attention(x, caches[i], inputs, group)
            x, residual = layer.mlp_norm.add(x, residual)
            x = layer.mlp(x)
            if on_layers_done is not None and i + 1 in bounds:
                on_layers_done(bounds[i + 1])
        if inputs.logit_rows is not None:
            x, residual = x[inputs.logit_rows], residual[inputs.logit_rows]
        return self.lm_head(self.norm.add(x, residual)[0])
