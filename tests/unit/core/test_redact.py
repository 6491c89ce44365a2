"""Passwords stay out of messages."""

from __future__ import annotations

import pytest

from baton.core.redact import redact_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://:pw@h:1/0", "redis://:***@h:1/0"),
        ("rediss://u:pw@[::1]:1/0", "rediss://u:***@[::1]:1/0"),
        ("redis://h/0?password=pw&db=1", "redis://h/0?password=***&db=1"),
        (
            "redis+sentinel://u:pw@a:1,b:2/main?sentinel_password=pw",
            "redis+sentinel://u:***@a:1,b:2/main?sentinel_password=***",
        ),
        ("redis+cluster://:pw@a,b:2", "redis+cluster://:***@a,b:2"),
        ("redis+cluster://:p/w@a,b:2", "redis+cluster://:***@a,b:2"),
        ("grpc://h:1", "grpc://h:1"),
        ("embedded", "embedded"),
        ("redis://[broken", "redis://[broken"),
        ("redis://u:p@w@h:1/0", "redis://u:***@h:1/0"),
        ("redis://u:p/w#@h:1/0", "redis://u:***@h:1/0"),
        ("redis://:pw@[broken", "redis://:***@[broken"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert redact_url(url) == shown
