"""Where the store is: which URLs make sense, told before anything connects."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

EMBEDDED = "embedded"
REDIS_SCHEMES = ("redis", "rediss", "unix")

_GRPC = re.compile(r"grpc://(\[[0-9A-Fa-f:.]+\]|[^\s/:@]+):([0-9]{1,5})/?")
_WANTED = "expected embedded, grpc://HOST:PORT, redis://HOST:PORT/DB or rediss://HOST:PORT/DB"


def check_store_url(url: str) -> str:
    """`url` itself. Raises ValueError, with what is wrong and no part of it, for no store's URL."""
    if url == EMBEDDED:
        return url
    scheme = url.partition("://")[0]
    if scheme == "grpc":
        match = _GRPC.fullmatch(url)
        if match is None or not 0 < int(match[2]) <= 65535:
            raise ValueError("expected grpc://HOST:PORT")
    elif scheme in REDIS_SCHEMES:
        problem = _redis_problem(url)
        if problem is not None:
            raise ValueError(problem)
    else:
        raise ValueError(_WANTED)
    return url


def _redis_problem(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # An unescaped "/" or "#" in a password ends the host early.
        return (
            "the port must be a number up to 65535; in a password write special characters as %XX"
        )
    if parts.scheme == "unix":
        return None if parts.path else "expected unix:///PATH/OF/SOCKET"
    if not parts.hostname:
        return f"no host; expected {parts.scheme}://HOST:PORT/DB"
    if port == 0:
        return "port 0; give the port that Redis listens on"
    db = dict(parse_qsl(parts.query)).get("db", unquote(parts.path).strip("/"))
    if db and not db.isdecimal():
        return f"the database must be a number; expected {parts.scheme}://HOST:PORT/DB"
    return None
