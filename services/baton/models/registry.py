"""Which class serves which architecture."""

from __future__ import annotations

from baton.core.errors import ModelLoadError
from baton.models.config import ConfigFile
from baton.models.decoder import CausalLM
from baton.models.llama import LlamaForCausalLM
from baton.models.mistral import MistralForCausalLM
from baton.models.qwen2 import Qwen2ForCausalLM
from baton.models.qwen3 import Qwen3ForCausalLM

MODELS: dict[str, type[CausalLM]] = {
    "LlamaForCausalLM": LlamaForCausalLM,
    "MistralForCausalLM": MistralForCausalLM,
    "Qwen2ForCausalLM": Qwen2ForCausalLM,
    "Qwen3ForCausalLM": Qwen3ForCausalLM,
}


def find_model(file: ConfigFile) -> type[CausalLM]:
    """The class for the config's architecture; ModelLoadError when it is not served."""
    try:
        return MODELS[file.architecture]
    except KeyError:
        raise ModelLoadError(
            f"{file.path} names the architecture {file.architecture}, which is not served; served "
            f"are {', '.join(MODELS)}"
        ) from None
