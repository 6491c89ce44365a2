"""Small tokenizers of the kinds that models use, trained in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
EOS = 1
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As those of models that think and call tools.
TOOL_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'tool' %}{{ m.tool_call_id }}: {% endif %}"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    '{{ m.content }}{% for call in m.tool_calls %}<tool_call>{"name": '
    '{{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}'
    "</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TEXTS = [
    "The baton passes from one runner to the next, and the race goes on.",
    "hello world, how are you today? I am fine, thank you.",
    "Größe, naïve café, 你好世界, привет мир, 🎉🏃 emoji",
] * 8


def byte_level() -> tokenizers.Tokenizer:
    """As Llama 3 or Qwen: BPE over bytes."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        _TEXTS,
        trainers.BpeTrainer(
            vocab_size=420,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=SPECIAL,
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return tokenizer


def sentence_piece() -> tokenizers.Tokenizer:
    """As Llama 2 or Mistral: pieces with a mark for spaces, other characters as bytes."""
    alphabet = sorted(set("".join(_TEXTS[:2])) - {" "})
    pieces = [*SPECIAL, "<unk>", *(f"<0x{b:02X}>" for b in range(256)), *alphabet, "\u2581"]
    words = ["\u2581he", "\u2581w", "or", "ld", "\u2581th"]
    merges = [("\u2581", "h"), ("\u2581h", "e"), ("\u2581", "w"), ("o", "r"), ("l", "d")]
    merges += [("\u2581", "t"), ("\u2581t", "h")]
    pieces += ["\u2581h", "\u2581t", *words]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def write_folder(
    folder: Path, tokenizer: tokenizers.Tokenizer, chat_template: object = CHAT_TEMPLATE
) -> Path:
    """The tokenizer's files of a Hugging Face folder."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True},
        "clean_up_tokenization_spaces": False,
    }
    if chat_template is not None:
        config["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
