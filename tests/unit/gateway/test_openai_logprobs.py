"""Logprobs in both forms."""

from __future__ import annotations

import math

from baton.core.request import TokenLogprobs
from baton.gateway.answer import logprobs
from baton.gateway.answer.logprobs import TokenRecord

BYTES = {1: b"hello", 2: b" you", 3: b"\xf0\x9f", 4: b"\xe2\x82"}


def test_chat_form_has_exact_bytes() -> None:
    records = [TokenRecord(3, TokenLogprobs(-0.5, (3, 1), (-0.5, -math.inf)), 0)]
    assert logprobs.chat(records, BYTES.__getitem__) == {
        "content": [
            {
                "token": "\ufffd",
                "logprob": -0.5,
                "bytes": [0xF0, 0x9F],
                "top_logprobs": [
                    {"token": "\ufffd", "logprob": -0.5, "bytes": [0xF0, 0x9F]},
                    {"token": "hello", "logprob": -9999.0, "bytes": [104, 101, 108, 108, 111]},
                ],
            }
        ],
        "refusal": None,
    }


def test_completion_form_has_offsets_and_the_sampled_token() -> None:
    records = [
        TokenRecord(1, TokenLogprobs(-2.0, (2,), (-0.1,)), 0),
        TokenRecord(2, TokenLogprobs(-0.25, (2,), (-0.25,)), 5),
    ]
    assert logprobs.completion(records, BYTES.__getitem__) == {
        "tokens": ["hello", " you"],
        "token_logprobs": [-2.0, -0.25],
        "top_logprobs": [{" you": -0.1, "hello": -2.0}, {" you": -0.25}],
        "text_offset": [0, 5],
    }


def test_parts_of_characters_keep_apart_in_the_completion_form() -> None:
    records = [TokenRecord(3, TokenLogprobs(-0.5, (3, 4), (-0.5, -1.5)), 0)]
    found = logprobs.completion(records, BYTES.__getitem__)
    assert found["tokens"] == ["bytes:\\xf0\\x9f"]
    assert found["top_logprobs"] == [{"bytes:\\xf0\\x9f": -0.5, "bytes:\\xe2\\x82": -1.5}]


def test_no_top_tokens_still_show_the_sampled_one() -> None:
    found = logprobs.completion([TokenRecord(1, TokenLogprobs(-1.0), 0)], BYTES.__getitem__)
    assert found["top_logprobs"] == [{"hello": -1.0}]
