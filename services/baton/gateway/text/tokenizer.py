"""Text to tokens and back, with the model folder's own tokenizer and chat template.

Long texts are tokenized on a thread, with the GIL released; short ones at once, since the way to a
thread costs more than they do.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

# One text at a time: a pool of threads inside the tokenizer would only wait beside ours.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tokenizers
from tokenizers.decoders import DecodeStream

from baton.core.errors import ContextLengthError, InvalidRequestError, ModelLoadError
from baton.gateway.text import chat_template
from baton.gateway.text.chat_template import PLAIN, ChatTemplate, Message, RenderOptions
from baton.gateway.text.incremental import IncrementalEncoder

T = TypeVar("T")

DEFAULT_CACHE_BYTES = 64 * 2**20
INLINE_CHARS = 2048
"""Up to here a text is tokenized on the event loop: about 0.4 ms."""
_MAX_TEMPLATES = 16
"""Clients' own chat templates that stay compiled."""
_MAX_PENDING = 16
"""Tokens held back as a part of a character before they are shown as they are."""
_MAX_CHARACTER_TOKENS = 3
"""A character has at most 4 bytes, so at most 3 tokens lie before the one that completes it."""


class Tokenizer:
    """The tokenizer of one model. All calls on the event loop."""

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        template: ChatTemplate | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        """`cache_bytes` are for texts that need not be tokenized again; 0 remembers none."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        document: dict[str, Any] = json.loads(tokenizer.to_str())
        self._encoder = IncrementalEncoder(tokenizer, document, cache_bytes)
        self._template = template
        self._templates: dict[str, ChatTemplate] = {}
        self._decoding = _Decoding(tokenizer, document)
        self._bytes: dict[int, bytes] = {}
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="tokenize")
        # Characters of text that one token can stand for; composing normalizers shorten text first.
        shortening = 1 if tokenizer.normalizer is None else 4
        self._chars_per_token = shortening * max(map(len, tokenizer.get_vocab()), default=1)

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], cache_bytes: int = DEFAULT_CACHE_BYTES
    ) -> Tokenizer:
        """The tokenizer of a Hugging Face folder. Raises ModelLoadError."""
        path = Path(folder)
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
        except Exception as error:  # the library raises plain Exception
            raise ModelLoadError(
                f"{path / 'tokenizer.json'} cannot be loaded: {error}; save a fast tokenizer there"
            ) from error
        return cls(tokenizer, chat_template.load(path), cache_bytes)

    async def encode_texts(
        self, texts: Sequence[str], max_tokens: int | None, *, special: bool = True
    ) -> list[list[int]]:
        """Tokens of completions' prompts; with `special` those that the tokenizer adds (BOS), too.

        Raises ContextLengthError early for a text that cannot fit in `max_tokens`.
        """
        for text in texts:
            self._check_length(text, max_tokens)
        encode = self._encoder.encode
        return await self._run(sum(map(len, texts)), lambda: encode(texts, special))

    async def encode_chat(
        self,
        messages: Sequence[Message],
        max_tokens: int | None,
        options: RenderOptions = PLAIN,
        *,
        special: bool = False,
    ) -> list[int]:
        """Tokens of the rendered chat; templates write the special ones themselves."""

        def work() -> list[int]:
            text = self._chat_template(options.template).render(messages, options)
            self._check_length(text, max_tokens)
            return self._encoder.encode([text], special)[0]

        return await self._run(sum(map(_num_chars, messages)), work)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of tokens, by default without the special ones."""
        ids = list(token_ids)
        return str(self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Text of tokens, the special ones included."""
        return await self._run(
            len(token_ids), lambda: self.decode(token_ids, skip_special_tokens=False)
        )

    async def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """How the vocabulary spells each token; nothing for unknown ones."""
        spell = self._tokenizer.id_to_token
        return await self._run(len(token_ids), lambda: [spell(token) or "" for token in token_ids])

    @property
    def joins_special_tokens(self) -> bool:
        """Whether special tokens that follow each other are shown without a space in between."""
        special = self._decoding.special
        return self.decode([*special, *special], skip_special_tokens=False) == "".join(
            2 * [*special.values()]
        )

    def detokenizer(
        self, prompt: Sequence[int] = (), skip_special_tokens: bool = True
    ) -> Detokenizer:
        """A decoder of one choice's output, which follows `prompt`."""
        before = prompt if self._decoding.looks_back else ()
        return Detokenizer(self._tokenizer, before, skip_special_tokens)

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

    def _chat_template(self, source: str | None) -> ChatTemplate:
        """The model's template, or that of the source, compiled once while it is in use."""
        if source is None:
            if self._template is None:
                raise InvalidRequestError(
                    "this model has no chat template; use /v1/completions, or add "
                    "chat_template.jinja to its folder",
                    param="messages",
                )
            return self._template
        template = self._templates.get(source)
        if template is None:
            tokens = self._template.special_tokens if self._template is not None else {}
            try:
                template = ChatTemplate(source, tokens)
            except ModelLoadError as error:
                raise InvalidRequestError(error.message, param="chat_template") from error
            if len(self._templates) >= _MAX_TEMPLATES:
                self._templates.clear()
            self._templates[source] = template
        return template

    def _check_length(self, text: str, max_tokens: int | None) -> None:
        if max_tokens is None or len(text) <= self._chars_per_token * max_tokens:
            return
        raise ContextLengthError(
            f"This model's maximum context length is {max_tokens} tokens. However, your prompt of "
            f"{len(text)} characters has at least {len(text) // self._chars_per_token} tokens. "
            "Please shorten it."
        )


class Detokenizer:
    """Turns one choice's tokens into text as they come; parts of characters are held back."""

    __slots__ = ("_last", "_pending", "_skip_special", "_stream", "_tokenizer")

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        prompt: Sequence[int] = (),
        skip_special_tokens: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special_tokens
        before = _whole_end(tokenizer, prompt)
        self._stream = DecodeStream(before, skip_special_tokens=skip_special_tokens)
        self._last = before[-1:]
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """The text that this token completes; often that of the token, sometimes none."""
        text: str | None
        try:
            text = self._stream.step(self._tokenizer, token)
        except Exception:  # decoders that rewrite text already given; the library's plain Exception
            self._stream = DecodeStream(skip_special_tokens=self._skip_special)
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
        skip = self._skip_special
        before: str = decode(self._last, skip_special_tokens=skip)
        text: str = decode([*self._last, *self._pending], skip_special_tokens=skip)
        return text[len(before) :] if text.startswith(before) else text

    def _give_up(self) -> str:
        rest = self._pending[-_MAX_CHARACTER_TOKENS:]
        self._pending = self._pending[:-_MAX_CHARACTER_TOKENS]
        text = self._text_of_pending()
        self._last = self._pending[-1:]
        self._pending = []
        self._stream = DecodeStream(skip_special_tokens=self._skip_special)
        return text + "".join(map(self.push, rest))


def _num_chars(message: Message) -> int:
    """About how much a message adds to the prompt."""
    chars = len(message["content"]) + len(message.get("reasoning_content", ""))
    return chars + (len(str(message["tool_calls"])) if "tool_calls" in message else 0)


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

    def __init__(self, tokenizer: tokenizers.Tokenizer, document: Mapping[str, Any]) -> None:
        decoder = document.get("decoder") or {}
        steps = [s.get("type") for s in [decoder, *decoder.get("decoders", [])]]
        self._byte_level = "ByteLevel" in steps
        self._byte_fallback = "ByteFallback" in steps
        added = document.get("added_tokens", [])
        self._added = {t["id"]: str(t["content"]) for t in added}
        self.special = {t["id"]: str(t["content"]) for t in added if t["special"]}
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
