"""Logprobs as the two kinds of completion show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from baton.core.request import TokenLogprobs
from baton.gateway.api.schemas import (
    ChatLogprobs,
    CompletionLogprobs,
    TokenLogprob,
    TopLogprob,
)

LEAST = -9999.0
"""Shown for minus infinity, which JSON lacks."""

TokenBytes = Callable[[int], bytes]


class TokenRecord(NamedTuple):
    """A token of an answer, its logprobs, and where its text begins (in characters)."""

    token: int
    logprobs: TokenLogprobs | None
    offset: int


def chat(records: Iterable[TokenRecord], token_bytes: TokenBytes) -> ChatLogprobs:
    """`logprobs` of a chat's choice. `token` of a part of a character shows U+FFFD."""
    content: list[TokenLogprob] = []
    for token, logprobs, _ in records:
        if logprobs is None:
            continue
        content.append(
            {
                **_entry(token, logprobs.logprob, token_bytes),
                "top_logprobs": [
                    _entry(top, logprob, token_bytes) for top, logprob in _top(logprobs)
                ],
            }
        )
    return {"content": content, "refusal": None}


def completion(records: Sequence[TokenRecord], token_bytes: TokenBytes) -> CompletionLogprobs:
    """`logprobs` of a completion's choice. A part of a character is named `bytes:\\xe2\\x82`."""
    found: CompletionLogprobs = {
        "tokens": [],
        "token_logprobs": [],
        "top_logprobs": [],
        "text_offset": [],
    }
    for token, logprobs, offset in records:
        if logprobs is None:
            continue
        name = _name(token_bytes(token))
        found["tokens"].append(name)
        found["token_logprobs"].append(max(logprobs.logprob, LEAST))
        top = {_name(token_bytes(t)): max(lp, LEAST) for t, lp in reversed([*_top(logprobs)])}
        # As OpenAI's: the sampled token is among them even when it is not one of the likeliest.
        top.setdefault(name, max(logprobs.logprob, LEAST))
        found["top_logprobs"].append(dict(sorted(top.items(), key=lambda item: -item[1])))
        found["text_offset"].append(offset)
    return found


def _top(logprobs: TokenLogprobs) -> Iterable[tuple[int, float]]:
    return zip(logprobs.top_tokens, logprobs.top_logprobs, strict=True)


def _entry(token: int, logprob: float, token_bytes: TokenBytes) -> TopLogprob:
    raw = token_bytes(token)
    return {
        "token": raw.decode(errors="replace"),
        "logprob": max(logprob, LEAST),
        "bytes": list(raw),
    }


def _name(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{b:02x}" for b in raw)
