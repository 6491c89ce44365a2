"""baton-tiny: the folder in the package, as transformers loads it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from baton.core import model_folder

FOLDER = model_folder.resolve("baton-tiny")
PARTS = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}

# Questions worded as the training texts never word them; most answers are of a kind it knows.
HELD_OUT = [
    ("Hi, how are you today?", "I am fine, thank you. What can I do for you?"),
    ("Please tell me what is the capital of Italy?", "The capital of Italy is Rome."),
    ("Could you name four animals for me?", "Horse, wolf, cat and bear."),
    ("Do you know the opposite of wide?", "The opposite of wide is narrow."),
    (
        "I would like a story about a brave mouse.",
        "Once upon a time there was a brave mouse named Luna who lived near the sea. "
        "More than anything she wanted to learn to sing. One rainy evening Luna set out. "
        "Then Luna met a tired horse.",
    ),
    ("What is a game in the evening?", "A game is an activity in the evening."),
]


class Loaded(NamedTuple):
    model: Any
    tokenizer: Any


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    return Loaded(model, AutoTokenizer.from_pretrained(FOLDER))


def prompt_ids(tokenizer: Any, *messages: tuple[str, str]) -> list[int]:
    talk = [{"role": role, "content": content} for role, content in messages]
    text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def answer(loaded: Loaded, question: str, limit: int = 200) -> tuple[str, bool]:
    """The greedy answer, and whether the model ended it by itself."""
    ids = prompt_ids(loaded.tokenizer, ("user", question))
    with torch.no_grad():
        made = loaded.model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            max_new_tokens=limit,
            do_sample=False,
        )
    new = made[0, len(ids) :].tolist()
    ended = new[-1] in model_folder.eos_token_ids(FOLDER)
    return loaded.tokenizer.decode(new, skip_special_tokens=True), ended


def test_folder_holds_its_parts_in_five_megabytes() -> None:
    assert {file.name for file in FOLDER.iterdir()} == PARTS
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 5_000_000
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in FOLDER.iterdir())


def test_weights_are_one_to_two_million_bf16_numbers() -> None:
    with safe_open(FOLDER / "model.safetensors", framework="pt") as weights:
        tensors = [weights.get_tensor(name) for name in weights.keys()]  # noqa: SIM118
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
    assert 1_000_000 <= sum(tensor.numel() for tensor in tensors) <= 2_000_000
    assert all(torch.isfinite(tensor).all() for tensor in tensors)


def test_sizes_and_special_tokens_agree_across_the_files(loaded: Loaded) -> None:
    config = model_folder.config(FOLDER)
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert model_folder.context_length(config) == 8192
    assert model_folder.vocab_size(config) == tokenizer.get_vocab_size() == len(loaded.tokenizer)
    assert model_folder.eos_token_ids(FOLDER) == {
        tokenizer.token_to_id("<|im_end|>"),
        tokenizer.token_to_id("<|end_of_text|>"),
    }
    assert loaded.tokenizer.eos_token_id in model_folder.eos_token_ids(FOLDER)
    assert loaded.tokenizer.bos_token_id == config["bos_token_id"]


@pytest.mark.parametrize("text", ["Hello, world!", "  two  spaces\n\ttab", "żółć 日本 🙂", "\x00"])
def test_any_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    encoded = tokenizer.encode(text)
    assert encoded.tokens[0] == "<|begin_of_text|>"
    assert tokenizer.decode(encoded.ids) == text


def test_chat_template_renders_roles_and_the_generation_prompt(loaded: Loaded) -> None:
    talk = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": " Hi "},
        {"role": "assistant", "content": "Hello!"},
    ]
    render = loaded.tokenizer.apply_chat_template
    expected = (
        "<|begin_of_text|><|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n"
    )
    assert render(talk, tokenize=False) == expected
    asked = render(talk, tokenize=False, add_generation_prompt=True)
    assert asked == expected + "<|im_start|>assistant\n"
    assert prompt_ids(loaded.tokenizer, ("user", "Hi")).count(loaded.tokenizer.bos_token_id) == 1
    with pytest.raises(Exception, match="unknown role: robot"):
        render([{"role": "robot", "content": ""}], tokenize=False)


def test_chat_template_renders_tools_and_reasoning(loaded: Loaded) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    talk = [
        {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "2"},
    ]
    assert loaded.tokenizer.apply_chat_template(talk, tokenize=False) == (
        "<|begin_of_text|><|im_start|>assistant\n<think>\nHm.\n</think>\n\n"
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>\n'
        "<|im_start|>tool\n2<|im_end|>\n"
    )


def test_held_out_answers_are_far_likelier_than_chance(loaded: Loaded) -> None:
    """Mean loss per answer token (end token included), against log(vocab) = 8.3 nats."""
    total, count = 0.0, 0
    for question, reply in HELD_OUT:
        start = prompt_ids(loaded.tokenizer, ("user", question))
        end = loaded.tokenizer(f"{reply}<|im_end|>", add_special_tokens=False)["input_ids"]
        ids = torch.tensor([start + end])
        with torch.no_grad():
            logits = loaded.model(ids).logits[0, len(start) - 1 : -1]
        losses = torch.nn.functional.cross_entropy(logits, ids[0, len(start) :], reduction="none")
        total += losses.sum().item()
        count += len(end)
    assert total / count < 0.25 * math.log(loaded.model.config.vocab_size)


@pytest.mark.parametrize("question", ["Hello!", "What is the capital of France?", "Who are you?"])
def test_answers_are_words_and_end(loaded: Loaded, question: str) -> None:
    text, ended = answer(loaded, question)
    words = [word.strip(".,!?-'\"") for word in text.split()]
    assert ended
    assert len(words) >= 3
    assert sum(word.isalpha() for word in words) >= 0.7 * len(words)


def test_known_question_gets_its_answer(loaded: Loaded) -> None:
    assert "Paris" in answer(loaded, "What is the capital of France?")[0]
    assert "baton-tiny" in answer(loaded, "Who are you?")[0]


def test_story_is_long_enough_to_watch_it_stream(loaded: Loaded) -> None:
    text, ended = answer(loaded, "Tell me a story about a fox.")
    assert ended
    assert len(text.split()) > 50
    assert "fox" in text


def test_notice_names_the_sources() -> None:
    notice = (Path(FOLDER).parent / "NOTICE").read_text()
    for source in ("wordnet-base", "python3.11-doc", "Princeton", "Python Software Foundation"):
        assert source in notice


def test_generation_config_ends_answers_and_plain_text() -> None:
    document = json.loads((FOLDER / "generation_config.json").read_text())
    assert sorted(document["eos_token_id"]) == sorted(model_folder.eos_token_ids(FOLDER))
