"""Tokenizing and incremental detokenizing, against the library's own decoding of the whole."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from baton.core.errors import ContextLengthError, InvalidRequestError, ModelLoadError
from baton.gateway.text.tokenizer import INLINE_CHARS, Detokenizer, Tokenizer
from fakes.gateway import text_tokens
from fakes.small_tokenizer import byte_level, sentence_piece, write_folder

BYTE_LEVEL = byte_level()
SENTENCE_PIECE = sentence_piece()
TEXTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=40)


def shown(detokenizer: Detokenizer, tokens: list[int]) -> str:
    return "".join(map(detokenizer.push, tokens)) + detokenizer.flush()


@given(TEXTS)
def test_pieces_make_the_text_byte_level(text: str) -> None:
    ids = BYTE_LEVEL.encode(text, add_special_tokens=False).ids
    assert shown(Tokenizer(BYTE_LEVEL).detokenizer(), ids) == text


@given(TEXTS)
def test_pieces_make_what_decode_makes_sentence_piece(text: str) -> None:
    ids = SENTENCE_PIECE.encode(text, add_special_tokens=False).ids
    assert shown(Tokenizer(SENTENCE_PIECE).detokenizer(), ids) == SENTENCE_PIECE.decode(ids)


@given(st.lists(st.integers(0, BYTE_LEVEL.get_vocab_size() - 1), max_size=60))
def test_any_tokens_make_what_decode_makes(ids: list[int]) -> None:
    # Parts of characters in any order, special tokens among them.
    assert shown(Tokenizer(BYTE_LEVEL).detokenizer(), ids) == BYTE_LEVEL.decode(ids)


@given(TEXTS.filter(bool), TEXTS)
def test_an_answer_goes_on_from_its_prompt(prompt: str, text: str) -> None:
    prompt_ids = SENTENCE_PIECE.encode(prompt, add_special_tokens=False).ids
    ids = [i for i in SENTENCE_PIECE.encode(text, add_special_tokens=False).ids if i is not None]
    whole = SENTENCE_PIECE.decode(prompt_ids + ids)
    before = SENTENCE_PIECE.decode(prompt_ids)
    if "\ufffd" in whole or not before:
        return
    assert shown(Tokenizer(SENTENCE_PIECE).detokenizer(prompt_ids), ids) == whole[len(before) :]


def test_a_character_is_shown_when_its_last_token_comes() -> None:
    ids = text_tokens("🎉")
    assert len(ids) > 1
    pieces = [*map(Tokenizer(BYTE_LEVEL).detokenizer().push, ids)]
    assert pieces == [""] * (len(ids) - 1) + ["🎉"]


def test_endless_parts_of_characters_are_not_held_back_for_ever() -> None:
    part = text_tokens("🎉")[-1]
    detokenizer = Tokenizer(BYTE_LEVEL).detokenizer()
    pieces = [detokenizer.push(part) for _ in range(200)]
    text = "".join(pieces) + detokenizer.flush()
    assert text == BYTE_LEVEL.decode([part] * 200)
    assert max(map(len, pieces)) < 20


@pytest.mark.parametrize(
    ("tokenizer", "token", "raw"),
    [
        (BYTE_LEVEL, "<|im_end|>", b"<|im_end|>"),
        (BYTE_LEVEL, "Ġworld", b" world"),
        (SENTENCE_PIECE, "<0xF0>", b"\xf0"),
        (SENTENCE_PIECE, "▁he", b" he"),
        (SENTENCE_PIECE, "</s>", b"</s>"),
    ],
)
def test_bytes_of_a_token(tokenizer: tokenizers.Tokenizer, token: str, raw: bytes) -> None:
    found = tokenizer.token_to_id(token)
    assert found is not None and Tokenizer(tokenizer).token_bytes(found) == raw


@given(TEXTS)
def test_bytes_of_tokens_make_the_text(text: str) -> None:
    tokenizer = Tokenizer(BYTE_LEVEL)
    ids = BYTE_LEVEL.encode(text, add_special_tokens=False).ids
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == text


def test_unknown_token_has_no_bytes() -> None:
    assert Tokenizer(BYTE_LEVEL).token_bytes(10**6) == b""


async def test_long_texts_give_the_same_tokens_off_the_loop() -> None:
    tokenizer = Tokenizer(BYTE_LEVEL)
    text = "hello world " * INLINE_CHARS
    loop_turns = 0

    async def count() -> None:
        nonlocal loop_turns
        while True:
            await asyncio.sleep(0)
            loop_turns += 1

    counter = asyncio.create_task(count())
    (ids,) = await tokenizer.encode_texts([text], 10**6)
    counter.cancel()
    assert ids == BYTE_LEVEL.encode(text).ids
    assert loop_turns > 0
    tokenizer.close()


async def test_text_that_cannot_fit_is_refused_before_it_is_tokenized() -> None:
    with pytest.raises(ContextLengthError, match="maximum context length is 10 tokens"):
        await Tokenizer(BYTE_LEVEL).encode_texts(["x" * 10_000], 10)


async def test_beginning_of_sequence_comes_from_the_tokenizer() -> None:
    (ids,) = await Tokenizer(BYTE_LEVEL).encode_texts(["hello"], 100)
    assert ids == [0, *text_tokens("hello")]


async def test_chat_without_a_template_says_what_to_do() -> None:
    with pytest.raises(InvalidRequestError, match="no chat template; use /v1/completions"):
        await Tokenizer(BYTE_LEVEL).encode_chat([{"role": "user", "content": "hi"}], 100)


def test_missing_tokenizer_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json cannot be loaded"):
        Tokenizer.load(tmp_path)


async def test_truncation_settings_of_the_file_are_ignored(tmp_path: Path) -> None:
    raw = byte_level()
    raw.enable_truncation(2)
    raw.enable_padding(length=50)
    write_folder(tmp_path, raw)
    tokenizer = Tokenizer.load(tmp_path)
    (ids,) = await tokenizer.encode_texts(["hello world"], 512, special=False)
    assert ids == text_tokens("hello world")
