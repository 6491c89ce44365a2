"""Train baton-tiny, the model inside the package, from nothing.

    python scripts/train_tiny.py --out services/baton/embedded/baton_tiny

It trains a byte-level BPE tokenizer and a Llama of about 1.4 million parameters on one CPU core,
in about half an hour, from word definitions (WordNet), Python's documentation and dialogues written
for it (see tiny_text.py and tiny_talk.py), and writes a Hugging Face folder in bf16. The Debian
packages that hold the texts are fetched into --work unless they are installed. The same seed, text
and versions give the same weights on the same kind of CPU. A run that was stopped goes on from the
last checkpoint in --work.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import tiny_talk
import tiny_text
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

SEED = 7
VOCAB_SIZE = 4096
BOS, EOS, START, END = "<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"
SPECIAL = [BOS, EOS, START, END]
NUM_WORDS = 2500
IGNORE = -100
ASKED = (
    "Hello!",
    "Who are you?",
    "What is a dog?",
    "What is the capital of France?",
    "Tell me a story about a fox.",
    "What does happy mean?",
    "What is a generator in Python?",
    "What is 3 + 4?",
)
PLAIN_SHARE = 0.06

# (share of the steps, sequences, tokens each): mostly short, which is quicker, then long ones.
PHASES = ((0.85, 32, 256), (0.15, 8, 1024))

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('unknown role: ' + message['role']) }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['reasoning_content'] %}"
    "{{ '<think>\n' + message['reasoning_content'] | trim + '\n</think>\n' }}{% endif %}"
    "{{ (message['content'] or '') | trim }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{{ '\n<tool_call>\n' + call['function'] | tojson + '\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Digits alone, words with the space before them: as Llama 3, shortened.
_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class Texts:
    """Everything the model learns from, drawn at random with fixed shares."""

    def __init__(self, wordnet: Path, python_docs: Path) -> None:
        self.words = tiny_text.words(wordnet, NUM_WORDS)
        self.weights = [math.sqrt(w.count) for w in self.words]
        self.questions = tiny_text.python_questions(python_docs)
        self.plain = tiny_text.python_texts(python_docs) + tiny_text.plain_words(self.words)

    def conversations(self, rng: random.Random) -> Iterator[list[tiny_talk.Turn]]:
        """By count: 45% dialogues, 40% words, 15% Python."""
        talks = tiny_talk.samples(rng)
        while True:
            share = rng.random()
            if share < 0.45:
                yield next(talks)
                continue
            if share < 0.85:
                (word,) = rng.choices(self.words, self.weights)
                question, answer = tiny_text.ask_word(word, rng)
            else:
                question, answer = rng.choice(self.questions)
            system = rng.random() < 0.15
            talk = [("system", rng.choice(tiny_talk.SYSTEM))] if system else []
            yield [*talk, ("user", tiny_talk.rough(question, rng)), ("assistant", answer)]


def train_tokenizer(texts: Texts) -> Tokenizer:
    """Byte-level BPE, so that any text can be encoded and decoded back."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    talks = texts.conversations(random.Random(SEED))
    sample = [content for _ in range(30_000) for _, content in next(talks)] + texts.plain
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample, trainer)
    bos = (BOS, tokenizer.token_to_id(BOS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[bos]
    )
    return tokenizer


class Batches:
    """Batches as a function of (seed, step), so that a stopped run can go on."""

    def __init__(self, texts: Texts, tokenizer: Tokenizer, seed: int) -> None:
        self._texts, self._seed = texts, seed
        self._encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
        self._plain = [self._encode(BOS + text + EOS) for text in texts.plain]

    def batch(self, step: int, num_sequences: int, length: int) -> tuple[Tensor, Tensor]:
        """Inputs and next-token labels, both int64 [num_sequences, length].

        A row starts with a document and is filled with more; only answers and plain text are
        learnt, other labels are IGNORE.
        """
        rng = random.Random(self._seed * 1_000_003 + step)
        talks = self._texts.conversations(rng)
        tokens, labels = [], []
        for _ in range(num_sequences):
            row: list[tuple[int, bool]] = []
            while len(row) <= length:
                if rng.random() < PLAIN_SHARE:
                    text = rng.choice(self._plain)
                    row += [(token, i > 0) for i, token in enumerate(text)]
                else:
                    row += self._talk(next(talks))
            tokens.append([token for token, _ in row[:length]])
            labels.append([t if learnt else IGNORE for t, learnt in row[1 : length + 1]])
        return torch.tensor(tokens), torch.tensor(labels)

    def _talk(self, talk: list[tiny_talk.Turn]) -> list[tuple[int, bool]]:
        row = [(token, False) for token in self._encode(BOS)]
        for role, content in talk:
            row += [(token, False) for token in self._encode(f"{START}{role}\n")]
            row += [(token, role == "assistant") for token in self._encode(f"{content}{END}")]
            row += [(token, False) for token in self._encode("\n")]
        return row


def new_model() -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            bos_token_id=SPECIAL.index(BOS),
            eos_token_id=SPECIAL.index(END),
        )
    )


def loss_of(model: LlamaForCausalLM, tokens: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy in nats over the learnt tokens."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=tokens).last_hidden_state
        learnt = labels != IGNORE
        # Only rows that count go through the vocabulary: the largest matmul by far.
        logits = model.lm_head(hidden[learnt])
    return F.cross_entropy(logits.float(), labels[learnt])


def train(model: LlamaForCausalLM, batches: Batches, num_steps: int, work: Path) -> None:
    """Muon for the layers' matrices, AdamW for the rest; linear warm-up and decay."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01),
        torch.optim.AdamW(others, lr=0.006, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    rates = [o.param_groups[0]["lr"] for o in optimizers]
    checkpoint = work / "checkpoint.pt"
    first, num_tokens, spent = 0, 0, 0.0
    if checkpoint.is_file():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        first, num_tokens, spent = saved["step"], saved["tokens"], saved["spent"]
    begun, recent = time.monotonic() - spent, 0.0
    for step in range(first, num_steps):
        factor = min(1.0, (step + 1) / 50, (num_steps - step) / (0.4 * num_steps))
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
        _, num_sequences, length = PHASES[step >= PHASES[0][0] * num_steps]
        loss = loss_of(model, *batches.batch(step, num_sequences, length))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()
        num_tokens += num_sequences * length
        recent = loss.item() if recent == 0 else 0.95 * recent + 0.05 * loss.item()
        spent = time.monotonic() - begun
        if step % 50 == 0 or step == num_steps - 1:
            seen = f"step {step} tokens {num_tokens} loss {recent:.3f} minutes {spent / 60:.1f}"
            print(seen, flush=True)
        if step % 200 == 199:
            state = {
                "model": model.state_dict(),
                "optimizers": [o.state_dict() for o in optimizers],
                "step": step + 1,
                "tokens": num_tokens,
                "spent": spent,
            }
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """A Hugging Face folder that transformers 4 and 5 load."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # the embedding, tied
    }
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # save_file leaves it to its owner alone
    c = model.config
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_hidden_layers": c.num_hidden_layers,
        "num_attention_heads": c.num_attention_heads,
        "num_key_value_heads": c.num_key_value_heads,
        "head_dim": c.hidden_size // c.num_attention_heads,
        "hidden_act": "silu",
        "rms_norm_eps": c.rms_norm_eps,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "max_position_embeddings": c.max_position_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": SPECIAL.index(BOS),
        "eos_token_id": SPECIAL.index(END),
        "pad_token_id": SPECIAL.index(EOS),
    }
    generation = {
        "bos_token_id": SPECIAL.index(BOS),
        "eos_token_id": [SPECIAL.index(END), SPECIAL.index(EOS)],
        "pad_token_id": SPECIAL.index(EOS),
    }
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    tokens = {
        "added_tokens_decoder": {
            str(i): {"content": text, **flags, "special": True} for i, text in enumerate(SPECIAL)
        },
        "bos_token": BOS,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "model_max_length": c.max_position_embeddings,
        "pad_token": EOS,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for name, document in (
        ("config", config),
        ("generation_config", generation),
        ("tokenizer_config", tokens),
    ):
        (out / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    tokenizer.save(str(out / "tokenizer.json"))


def show(model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    """Greedy answers to a few questions."""
    for question in ASKED:
        prompt = f"{BOS}{START}user\n{question}{END}\n{START}assistant\n"
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        answer = model.generate(
            torch.tensor([ids]), max_new_tokens=200, do_sample=False, eos_token_id=[1, 3]
        )[0, len(ids) :].tolist()
        ended = "" if answer[-1] in (1, 3) else " ..."
        print(f"> {question}\n{tokenizer.decode(answer)}{ended}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--work", type=Path, default=Path("/tmp/baton-tiny"), help="checkpoints")
    parser.add_argument("--steps", type=int, default=1200, help="0 writes random weights")
    a = parser.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    folder = tiny_text.debian_folder
    texts = Texts(
        folder("wordnet-base", "/usr/share/wordnet", a.work),
        folder("python3.11-doc", "/usr/share/doc/python3.11/html", a.work) / "_sources",
    )
    tokenizer = train_tokenizer(texts)
    model = new_model()
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    train(model, Batches(texts, tokenizer, SEED), a.steps, a.work)
    held_out = Batches(texts, tokenizer, SEED + 1)
    with torch.no_grad():
        losses = [loss_of(model, *held_out.batch(i, 16, 256)).item() for i in range(4)]
    print(f"loss on fresh samples {sum(losses) / len(losses):.3f} nats per token")
    save(model, tokenizer, a.out)
    show(model, tokenizer)


if __name__ == "__main__":
    main()
