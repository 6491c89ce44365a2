"""Secrets kept out of messages."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit


def redact_url(url: str) -> str:
    """`url` with `***` for its password; anything that is not a URL stays as it is."""
    url = re.sub(r"([?&](?:sentinel_)?password=)[^&]*", r"\1***", url)
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        password = None
    if password is None:
        # With an unescaped "/" in it, it does not look like one.
        return re.sub(r"^([\w+]+://[^:/@]*:).*@", r"\1***@", url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))
