"""API keys: what they look like, and what is kept of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.core import api_key


def test_a_key_is_told_by_its_id_and_known_by_its_digest() -> None:
    new = api_key.draw_key()
    key = new.key.encode()
    assert new.key.startswith(f"sk-baton-{new.id}-")
    assert api_key.key_id(key) == new.id
    assert api_key.matches(key, bytes.fromhex(new.digest))
    # The secret may itself have a "-": taking what follows the last one would test a tail of it.
    secret = new.key.removeprefix(f"sk-baton-{new.id}-")
    assert len(secret) == 43
    assert secret not in new.digest


def test_keys_differ() -> None:
    drawn = [api_key.draw_key() for _ in range(100)]
    assert len({new.key for new in drawn}) == len({new.id for new in drawn}) == 100


def test_a_key_with_another_secret_does_not_match() -> None:
    new = api_key.draw_key()
    for wrong in (new.key[:-1] + ("A" if new.key[-1] != "A" else "B"), new.key + "A", new.key[:-1]):
        assert not api_key.matches(wrong.encode(), bytes.fromhex(new.digest))


@pytest.mark.parametrize(
    "text", [b"", b"sk-baton-", b"sk-proj-abc", b"sk-baton-XYZ-" + b"a" * 43, b"\xff" * 65]
)
def test_what_is_no_key_has_no_id(text: bytes) -> None:
    assert api_key.key_id(text) is None


@given(st.text(), st.text())
def test_no_secret_survives_redaction(before: str, after: str) -> None:
    new = api_key.draw_key()
    secret = new.key.removeprefix(f"sk-baton-{new.id}-")
    shown = api_key.redact_keys(f"{before}{new.key} {after}")
    assert secret not in shown
    assert f"sk-baton-{new.id}-***" in shown
