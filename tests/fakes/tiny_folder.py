"""A model folder that a whole deployment can serve: random weights, a real tokenizer."""

from __future__ import annotations

from pathlib import Path

from fakes.small_tokenizer import EOS, byte_level, write_folder
from fakes.tiny_models import save_model

CONTEXT = 2048


def tiny_folder(folder: Path) -> Path:
    """A llama of 3 layers in float64, with the small byte-level tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_level()
    save_model(
        folder,
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=CONTEXT,
        eos_token_id=EOS,
    )
    return write_folder(folder, tokenizer)
