"""Texts are tokenized in segments, and get the very tokens that they would have as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors

import baton.embedded
from baton.gateway.text.incremental import MIN_SEGMENT_CHARS, IncrementalEncoder
from fakes.small_tokenizer import byte_level, sentence_piece


def _embedded() -> tokenizers.Tokenizer:
    folder = Path(baton.embedded.__file__).parent / "baton_tiny"
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def _metaspace_first() -> tokenizers.Tokenizer:
    """As newer Llama 2 files: a space goes before the text's very beginning only."""
    tokenizer = sentence_piece()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


def _metaspace_always() -> tokenizers.Tokenizer:
    tokenizer = sentence_piece()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return tokenizer


def _prefix_space() -> tokenizers.Tokenizer:
    """As GPT-2 with add_prefix_space, and BOS and EOS around each text."""
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


def _greedy_tokens() -> tokenizers.Tokenizer:
    """Special tokens that take the space beside them, contain each other, and are normalized."""
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.add_special_tokens(
        [
            AddedToken("<|im_end|><s>", normalized=False),
            AddedToken("<left>", lstrip=True, normalized=False),
            AddedToken("<right>", rstrip=True, normalized=False),
            AddedToken("<Plain>", normalized=True),
        ]
    )
    tokenizer.add_tokens([AddedToken("<s><tool>", normalized=False), AddedToken("name")])
    return tokenizer


def _whole_words() -> tokenizers.Tokenizer:
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken("mask", single_word=True, normalized=False)])
    return tokenizer


def _word_piece() -> tokenizers.Tokenizer:
    vocab = {w: i for i, w in enumerate(["[UNK]", "[CLS]", "[SEP]", "he", "##llo", "world", "a"])}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


RAW = {
    "embedded": _embedded(),
    "byte level": byte_level(),
    "sentence piece": sentence_piece(),
    "metaspace first": _metaspace_first(),
    "metaspace always": _metaspace_always(),
    "prefix space": _prefix_space(),
    "greedy tokens": _greedy_tokens(),
    "whole words": _whole_words(),
    "word piece": _word_piece(),
}
PIECES = st.sampled_from(
    [
        "<s>",
        "</s>",
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end",
        "|>",
        "<left>",
        "<right>",
        "<Plain>",
        "<tool>",
        "[SEP]",
        "mask",
        "name",
        " ",
        "\n",
        "  \n",
        "hello world",
        "The baton passes on. " * 4,
        "Größe 你好 🎉 " * 9,
        "x" * (MIN_SEGMENT_CHARS - 1),
        "e\u0301",
        "\u0301",
        "\u2581",
        "\u200d",
    ]
) | st.text(alphabet=st.characters(codec="utf-8"), max_size=8)
TEXTS = st.lists(PIECES, max_size=14).map("".join)


def encoder(raw: tokenizers.Tokenizer, max_bytes: int = 2**20) -> IncrementalEncoder:
    return IncrementalEncoder(raw, json.loads(raw.to_str()), max_bytes)


def whole(raw: tokenizers.Tokenizer, text: str, special: bool) -> list[int]:
    ids: list[int] = raw.encode(text, add_special_tokens=special).ids
    return ids


@pytest.mark.parametrize("name", RAW)
def test_tokens_are_those_of_the_whole_text(name: str) -> None:
    raw = RAW[name]
    ours = encoder(raw, 20_000)

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.lists(TEXTS, min_size=1, max_size=3), TEXTS, st.booleans())
    def check(texts: list[str], more: str, special: bool) -> None:
        grown = [texts[0] + more, *texts]
        for given_texts in (texts, grown, grown):
            wanted = [whole(raw, text, special) for text in given_texts]
            assert ours.encode(given_texts, special) == wanted

    check()


def _chat(num_turns: int) -> str:
    turns = (
        f"<|im_start|>user\nturn {i} {'hello world ' * 20}<|im_end|>\n" for i in range(num_turns)
    )
    return "<s>" + "".join(turns)


class Counting:
    """A tokenizer that notes which texts it is given."""

    def __init__(self, raw: tokenizers.Tokenizer) -> None:
        self._raw = raw
        self.texts: list[str] = []

    def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> object:
        self.texts += texts
        return self._raw.encode_batch_fast(texts, add_special_tokens=add_special_tokens)

    def __getattr__(self, name: str) -> object:
        return getattr(self._raw, name)


def test_known_turns_are_not_tokenized_again() -> None:
    counting = Counting(RAW["byte level"])
    ours = encoder(counting)  # type: ignore[arg-type]
    ours.encode([_chat(9)], False)
    counting.texts.clear()
    ours.encode([_chat(10)], False)
    # The last turn, and the end of the one before it.
    assert sum(map(len, counting.texts)) < 2 * len(_chat(1))
    counting.texts.clear()
    ours.encode([_chat(10), _chat(3)], True)
    assert sum(map(len, counting.texts)) < len("<|im_end|>\n") + 1


def test_a_turn_is_known_in_another_conversation_too() -> None:
    counting = Counting(RAW["byte level"])
    ours = encoder(counting)  # type: ignore[arg-type]
    system = f"<|im_start|>system\n{'Be brief. ' * 50}<|im_end|>\n<|im_start|>user\n"
    ours.encode([system + "one thing" + "<|im_end|>"], False)
    counting.texts.clear()
    ours.encode([system + "another" + "<|im_end|>"], False)
    assert sum(map(len, counting.texts)) < 50


def test_memory_stays_in_its_bounds() -> None:
    ours = encoder(RAW["byte level"], 50_000)
    cache = ours._cache
    assert cache is not None
    for i in range(200):
        text = f"{i} " + _chat(i % 7)
        assert ours.encode([text], False) == [whole(RAW["byte level"], text, False)]
        assert cache.num_bytes <= 50_000
    assert len(cache) > 10
    huge = "<s>" + "x" * 60_000
    assert ours.encode([huge], False) == [whole(RAW["byte level"], huge, False)]


def test_no_memory_remembers_nothing() -> None:
    counting = Counting(RAW["byte level"])
    ours = encoder(counting, 0)  # type: ignore[arg-type]
    for _ in range(2):
        assert ours.encode([_chat(2)], True) == [whole(RAW["byte level"], _chat(2), True)]
    assert counting.texts == [_chat(2)] * 2


def test_a_tokenizer_that_draws_its_tokens_is_not_remembered() -> None:
    raw = byte_level()
    raw.model.dropout = 0.5
    assert encoder(raw)._cache is None
