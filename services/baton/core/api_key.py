"""API keys: how they are drawn, told apart and kept (pure).

A key is `sk-baton-<id>-<secret>`: the id, 12 hexadecimal digits, is no secret and names the key in
lists and logs; the secret has 256 random bits. Kept is only the SHA-256 of the whole. A slow hash
with a salt, as for passwords, would make guessing dearer; nobody guesses 256 random bits, and each
request would pay for it. The id finds the one hash to compare with, in constant time; an unknown id
is compared, too, so that time does not tell which ids there are.
"""

from __future__ import annotations

import hmac
import re
import secrets
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple

PREFIX = "sk-baton-"
_ID_BYTES = 6
_SECRET_BYTES = 32
_KEY = re.compile(rb"sk-baton-([0-9a-f]{12})-[A-Za-z0-9_-]{43}")
_ID = re.compile(r"[0-9a-f]{12}")
_SHOWN = re.compile(r"(sk-baton-[0-9a-f]{12})-[A-Za-z0-9_-]+")


class Scope(StrEnum):
    """What a key may be used for; `admin` includes `read`."""

    INFERENCE = "inference"
    READ = "read"
    ADMIN = "admin"


class NewKey(NamedTuple):
    """A fresh key: shown once, then only `id` and `digest` are known."""

    key: str
    id: str
    digest: str


def draw_key() -> NewKey:
    """A key that nobody else has."""
    key_id = secrets.token_hex(_ID_BYTES)
    key = f"{PREFIX}{key_id}-{secrets.token_urlsafe(_SECRET_BYTES)}"
    return NewKey(key, key_id, digest(key.encode()).hex())


def digest(key: bytes) -> bytes:
    """What is kept of a key: 32 bytes."""
    return sha256(key).digest()


def key_id(key: bytes) -> str | None:
    """The id of what looks like one of our keys, else None."""
    match = _KEY.fullmatch(key)
    return match[1].decode() if match else None


def is_id(text: str) -> bool:
    """Whether a key could have this id."""
    return _ID.fullmatch(text) is not None


def matches(key: bytes, expected: bytes) -> bool:
    """Whether `expected` is the key's digest; takes as long whatever differs."""
    return hmac.compare_digest(digest(key), expected)


def redact_keys(text: str) -> str:
    """`text` with `***` for the secrets of our keys in it."""
    return _SHOWN.sub(r"\1-***", text)
