"""Small random models in Hugging Face format, and the transformers models they came from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from baton.core.request import SamplingParams
from baton.core.settings import EngineSettings, ModelSettings
from baton.engine.batch import Batch, BatchEntry, SampledToken, SampleSpec
from baton.engine.model_runner import ModelRunner

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

VOCAB_SIZE = 96
BLOCK_SIZE = 4
_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": 2,
}
FAMILIES: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, {}),
    "llama-biased": (transformers.LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "llama-tied": (transformers.LlamaConfig, {"tie_word_embeddings": True}),
    "mistral": (transformers.MistralConfig, {"sliding_window": None, "head_dim": 12}),
    "qwen2": (transformers.Qwen2Config, {"num_key_value_heads": 4}),
    "qwen3": (transformers.Qwen3Config, {"head_dim": 16, "num_key_value_heads": 1}),
}


def save_model(
    folder: Path,
    family: str = "llama",
    dtype: torch.dtype = torch.float64,
    max_shard_size: str | None = None,
    **changes: Any,
) -> Any:
    """Write a random model to `folder` and return it. The same arguments give the same weights."""
    config_class, differences = FAMILIES[family]
    config = config_class(**{**_SIZES, **differences, **changes})
    generator = torch.Generator().manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            # Norms stay near one, so that logits are neither flat nor a single spike.
            parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.25 * noise)
    sharding = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
    model.save_pretrained(folder, **sharding)
    (folder / "tokenizer.json").write_text("{}")
    return model


def edit_config(folder: Path, **changes: Any) -> None:
    """Change fields of the folder's config.json; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def make_runner(folder: Path, dtype: str = "float64", **engine: Any) -> ModelRunner:
    """A CPU runner with small blocks."""
    settings = {"block_size": BLOCK_SIZE, "kv_blocks": 64, "num_threads": 1} | engine
    return ModelRunner(
        ModelSettings(source=str(folder), dtype=dtype, device="cpu"),  # type: ignore[arg-type]
        EngineSettings(**settings),
    )


def random_prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, VOCAB_SIZE, length).tolist()


@dataclass
class Feed:
    """A sequence fed to a runner by hand: its tokens, and the blocks that its KV lies in."""

    tokens: list[int]
    blocks: Sequence[int]
    num_computed: int = 0

    def entry(
        self, num_tokens: int, params: SamplingParams | None = None, seeds: Sequence[int] = (0,)
    ) -> BatchEntry:
        """The next `num_tokens` tokens, sampling with `params` once for each seed after them."""
        start, end = self.num_computed, self.num_computed + num_tokens
        self.num_computed = end
        specs = [
            SampleSpec(choice, 0, seed, params, [], len(self.tokens))
            for choice, seed in enumerate(seeds)
            if params is not None
        ]
        return BatchEntry(
            token_ids=np.array(self.tokens[start:end], dtype=np.int32),
            start=start,
            block_tables=(np.array(self.blocks, dtype=np.int32),),
            sample=params is not None,
            samples=specs,
            sequence_id=id(self),
            history=np.array(self.tokens[:end], dtype=np.int32),
        )


WITH_LOGPROBS = SamplingParams(
    max_tokens=1, temperature=0.0, logprobs=True, top_logprobs=VOCAB_SIZE
)


def run_for_logprobs(runner: ModelRunner, entries: Sequence[BatchEntry]) -> list[np.ndarray]:
    """Log-probabilities [vocab] after each of the entries, which sample with WITH_LOGPROBS."""
    return [logprobs_of(sampled) for sampled in runner.run(Batch(list(entries)))]


def logprobs_of(sampled: SampledToken) -> np.ndarray:
    """All of the vocabulary's, by token id."""
    assert sampled.logprobs is not None
    found = np.full(VOCAB_SIZE, np.nan)
    found[list(sampled.logprobs.top_tokens)] = sampled.logprobs.top_logprobs
    return found


@torch.no_grad()
def reference_logprobs(model: Any, tokens: Sequence[int]) -> np.ndarray:
    """What transformers says after each token: [len(tokens), vocab]."""
    logits = model(torch.tensor([list(tokens)])).logits[0]
    result: np.ndarray = logits.double().log_softmax(-1).numpy()
    return result
