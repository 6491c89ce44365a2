"""Text to tokens and back, with the model folder's own tokenizer and chat template.

Long texts are tokenized on a thread, with the GIL released; short ones at once, since the way to a
thread costs more than they do.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

# One text at a time: a pool of threads inside the tokenizer would only wait beside ours.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tokenizers
from tokenizers.decoders import DecodeStream

from baton.core.errors import ContextLengthError, InvalidRequestError, ModelLoadError
from baton.gateway import chat_template
from baton.gateway.chat_template import ChatTemplate, Message

T = TypeVar("T")

INLINE_CHARS = 2048
"""Up to here a text is tokenized on the event loop: about 0.4 ms."""
_MAX_PENDING = 16
"""Tokens held back as a part of a character before they are shown as they are."""
_MAX_CHARACTER_TOKENS = 3
"""A character has at most 4 bytes, so at most 3 tokens lie before the one that completes it."""


class Tokenizer:
    """The tokenizer of one model. All calls on the event loop."""

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, template: ChatTemplate | None = None
    ) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._template = template
        self._decoding = _Decoding(tokenizer)
        self._bytes: dict[int, bytes] = {}
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="tokenize")
        # Characters of text that one token can stand for; composing normalizers shorten text first.
        shortening = 1 if tokenizer.normalizer is None else 4
        self._chars_per_token = shortening * max(map(len, tokenizer.get_vocab()), default=1)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Tokenizer:
        """The tokenizer of a Hugging Face folder. Raises ModelLoadError."""
        path = Path(folder)
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
        except Exception as error:  # the library raises plain Exception
            raise ModelLoadError(
                f"{path / 'tokenizer.json'} cannot be loaded: {error}; save a fast tokenizer there"
            ) from error
        return cls(tokenizer, chat_template.load(path))

    async def encode_texts(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """Tokens of completions' prompts, special ones (BOS) as the tokenizer adds them.

        Raises ContextLengthError early for a text that cannot fit in `max_tokens`.
        """
        for text in texts:
            self._check_length(text, max_tokens)
        return await self._run(sum(map(len, texts)), lambda: self._encode(texts, True))

    async def encode_chat(self, messages: Sequence[Message], max_tokens: int) -> list[int]:
        """Tokens of the rendered chat; the template writes the special ones itself."""
        template = self._template
        if template is None:
            raise InvalidRequestError(
                "this model has no chat template; use /v1/completions, or add chat_template.jinja "
                "to its folder",
                param="messages",
            )

        def work() -> list[int]:
            text = template.render(messages)
            self._check_length(text, max_tokens)
            return self._encode([text], False)[0]

        return await self._run(sum(len(m["content"]) for m in messages), work)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens without the special ones."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def detokenizer(self, prompt: Sequence[int] = ()) -> Detokenizer:
        """A decoder of one choice's output, which follows `prompt`."""
        return Detokenizer(self._tokenizer, prompt if self._decoding.looks_back else ())

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; of an unknown one, none."""
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._decoding.token_bytes(token)
        return found

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, num_chars: int, work: Callable[[], T]) -> T:
        if num_chars <= INLINE_CHARS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _encode(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        # The batch call releases the GIL, and without offsets it is faster for one text, too.
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)
        return [encoding.ids for encoding in found]

    def _check_length(self, text: str, max_tokens: int) -> None:
        if len(text) <= self._chars_per_token * max_tokens:
            return
        raise ContextLengthError(
            f"This model's maximum context length is {max_tokens} tokens. However, your prompt of "
            f"{len(text)} characters has at least {len(text) // self._chars_per_token} tokens. "
            "Please shorten it."
        )


class Detokenizer:
    """Turns one choice's tokens into text as they come; parts of characters are held back."""

    __slots__ = ("_last", "_pending", "_stream", "_tokenizer")

    def __init__(self, tokenizer: tokenizers.Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        before = _whole_end(tokenizer, prompt)
        self._stream = DecodeStream(before, skip_special_tokens=True)
        self._last = before[-1:]
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """The text that this token completes; often that of the token, sometimes none."""
        text: str | None
        try:
            text = self._stream.step(self._tokenizer, token)
        except Exception:  # decoders that rewrite text already given; the library's plain Exception
            self._stream = DecodeStream(skip_special_tokens=True)
            text = self._stream.step(self._tokenizer, token)
        if text is None:
            self._pending.append(token)
            # A run of tokens that never makes a character would be decoded anew at each of them.
            return "" if len(self._pending) < _MAX_PENDING else self._give_up()
        if self._pending:
            self._pending = []
        self._last = [token]
        return text

    def flush(self) -> str:
        """What is held back, parts of characters shown as U+FFFD. The last call."""
        text = self._text_of_pending() if self._pending else ""
        self._pending = []
        return text

    def _text_of_pending(self) -> str:
        decode = self._tokenizer.decode
        before: str = decode(self._last, skip_special_tokens=True)
        text: str = decode([*self._last, *self._pending], skip_special_tokens=True)
        return text[len(before) :] if text.startswith(before) else text

    def _give_up(self) -> str:
        rest = self._pending[-_MAX_CHARACTER_TOKENS:]
        self._pending = self._pending[:-_MAX_CHARACTER_TOKENS]
        text = self._text_of_pending()
        self._last = self._pending[-1:]
        self._pending = []
        self._stream = DecodeStream(skip_special_tokens=True)
        return text + "".join(map(self.push, rest))


def _whole_end(tokenizer: tokenizers.Tokenizer, prompt: Sequence[int]) -> list[int]:
    """The fewest last tokens of a prompt that are whole text; none if the last 16 are not."""
    for length in range(1, min(len(prompt), _MAX_PENDING) + 1):
        end = list(prompt[-length:])
        text = tokenizer.decode(end, skip_special_tokens=True)
        # Half a character would be shown as a part of the answer.
        if text and "\ufffd" not in text:
            return end
    return []


class _Decoding:
    """What the tokenizer's decoder does with a token, read from its description."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        document: dict[str, Any] = json.loads(tokenizer.to_str())
        decoder = document.get("decoder") or {}
        steps = [s["type"] for s in [decoder, *decoder.get("decoders", [])]]
        self._byte_level = "ByteLevel" in steps
        self._byte_fallback = "ByteFallback" in steps
        self._added = {t["id"]: str(t["content"]) for t in document.get("added_tokens", [])}
        self._tokenizer = tokenizer
        # A byte-level token's text does not depend on those before it. Others strip a space from
        # the first token, which is the answer's first only if the prompt is left out.
        self.looks_back = not self._byte_level

    def token_bytes(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.id_to_token(token)
        if piece is None:
            return b""
        if self._byte_level:
            if all(c in _BYTE_OF for c in piece):
                return bytes(_BYTE_OF[c] for c in piece)
            return str(piece).encode()
        if self._byte_fallback and len(piece) == 6 and piece.startswith("<0x"):
            return bytes.fromhex(piece[3:5])
        return str(piece).replace("\u2581", " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character for each byte, reversed."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTE_OF = _byte_alphabet()
