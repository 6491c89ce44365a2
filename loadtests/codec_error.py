"""What the int8 codec does to KV, and to the embedded model's answers.

    python loadtests/codec_error.py

Normal KV goes through the codec and back; then all full blocks of a prompt do, before the model
generates from them, and the tokens and log-probabilities are compared with the undisturbed ones.
"""

from __future__ import annotations

import numpy as np
import torch
from transformers import AutoTokenizer

from baton.core import model_folder
from baton.core.kv import GroupSpec
from baton.core.request import SamplingParams
from baton.core.settings import EngineSettings, ModelSettings
from baton.engine.batch import Batch, BatchEntry, SampledToken, SampleSpec
from baton.engine.model_runner import ModelRunner
from baton.models.kv_cache import TORCH_DTYPES
from baton.transfer.codec import Codec, make_codec

PROMPT_TOKENS = 200
OUTPUT_TOKENS = 40
QUESTIONS = [
    "Hi, how are you today?",
    "What is the capital of Italy?",
    "Could you name four animals for me?",
    "Tell me a story about a brave mouse.",
    "What is a game in the evening?",
    "Do you know the opposite of wide?",
    "What is two plus three?",
    "Who are you?",
]
GREEDY = SamplingParams(max_tokens=1, temperature=0.0, logprobs=True, top_logprobs=20)


def there_and_back(codec: Codec, block: np.ndarray) -> None:
    record = np.empty(codec.record_bytes, dtype=np.uint8)
    codec.encode(block, record)
    codec.decode(record, block)


def normal_kv(dtype: str) -> None:
    """Errors of standard normal elements, head size 128."""
    spec = GroupSpec("full", 4, 2, 128, 128, 16, dtype)
    codec = make_codec("int8", spec)
    generator = torch.Generator().manual_seed(0)
    largest, relative = [], []
    for _ in range(50):
        values = torch.randn(8, 2, 16, 128, generator=generator).to(TORCH_DTYPES[dtype])
        block = values.view(torch.uint8).reshape(-1).numpy().copy()
        there_and_back(codec, block)
        found = torch.from_numpy(block).view(values.dtype).view(values.shape).double()
        error, exact = found - values.double(), values.double()
        largest.append((error.abs() / exact.abs().amax(-1, keepdim=True)).max().item())
        relative.append((error.norm(dim=-1) / exact.norm(dim=-1)).mean().item())
    print(
        f"{dtype}: {codec.record_bytes / spec.block_bytes:.3f} of the bytes, error at most "
        f"{max(largest):.4f} of a vector's largest element, "
        f"mean {np.mean(relative):.4f} of its norm"
    )


def generate(
    runner: ModelRunner, prompt: list[int], codec: Codec | None
) -> tuple[list[int], list[dict[int, float]]]:
    """Greedy tokens and top log-probabilities, with full blocks of the prompt through `codec`."""
    tokens, logprobs = list(prompt), []
    outputs: list[int] = []
    size = runner.groups[0].block_size
    num_full = (len(prompt) - 1) // size

    def run(start: int, *, sample: bool) -> SampledToken | None:
        end = len(tokens) if sample else num_full * size
        spec = SampleSpec(0, len(outputs), 0, GREEDY, outputs, len(prompt))
        entry = BatchEntry(
            np.array(tokens[start:end], dtype=np.int32),
            start,
            (np.arange(runner.num_blocks[0], dtype=np.int32),),
            sample,
            [spec] if sample else (),
            0,
            np.array(tokens[:end], dtype=np.int32),
        )
        return next(iter(runner.run(Batch([entry]))), None)

    run(0, sample=False)
    if codec is not None:
        for block in runner.arenas()[0].view[:num_full]:
            there_and_back(codec, block)
    start = num_full * size
    while len(outputs) < OUTPUT_TOKENS:
        sampled = run(start, sample=True)
        assert sampled is not None and sampled.logprobs is not None
        top = sampled.logprobs
        logprobs.append(dict(zip(top.top_tokens, top.top_logprobs, strict=True)))
        start = len(tokens)
        tokens.append(sampled.token)
        outputs.append(sampled.token)
    return outputs, logprobs


def main() -> None:
    for dtype in ("bfloat16", "float16", "float32"):
        normal_kv(dtype)
    folder = model_folder.resolve("baton-tiny")
    runner = ModelRunner(
        ModelSettings(source=str(folder), dtype="float32", device="cpu"),
        EngineSettings(block_size=16, kv_blocks=32),
    )
    codec = make_codec("int8", runner.groups[0])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    num_equal, differences = 0, []
    for question in QUESTIONS:
        talk = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        # Earlier turns of the same talk come first.
        prompt = (ids * PROMPT_TOKENS)[-PROMPT_TOKENS:]
        exact, exact_top = generate(runner, prompt, None)
        lossy, lossy_top = generate(runner, prompt, codec)
        num_equal += sum(a == b for a, b in zip(exact, lossy, strict=True))
        both = exact_top[0].keys() & lossy_top[0].keys()
        differences += [abs(exact_top[0][token] - lossy_top[0][token]) for token in both]
    print(
        f"baton-tiny: {num_equal} of {len(QUESTIONS) * OUTPUT_TOKENS} greedy tokens equal; "
        f"first token's top 20 log-probabilities differ by {max(differences):.3f} at most, "
        f"{np.mean(differences):.3f} in the mean"
    )


if __name__ == "__main__":
    main()
