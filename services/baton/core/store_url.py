"""Where the store is: which URLs make sense, told before anything connects (pure).

One Redis server is `redis://[USER:PASSWORD@]HOST:PORT/DB`. Several of them:

    redis+sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/MASTER[/DB]    the hosts are Sentinels
    redis+cluster://[USER:PASSWORD@]HOST:PORT,HOST:PORT                 some nodes of a Cluster

`rediss+...` speaks TLS to all of them. User and password are the data servers'; Sentinels' own are
the options `sentinel_username` and `sentinel_password`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlsplit

EMBEDDED = "embedded"
REDIS_SCHEMES = ("redis", "rediss", "unix")
GROUP_SCHEMES = ("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
# Options of a group's URL, as redis-py names them; those of one server's URL are redis-py's own.
_TLS_OPTIONS = frozenset(
    {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"}
)
_SENTINEL_OPTIONS = frozenset({"sentinel_username", "sentinel_password"})
_PORTS = {"sentinel": 26379, "cluster": 6379}

_GRPC = re.compile(r"grpc://(\[[0-9A-Fa-f:.]+\]|[^\s/:@]+):([0-9]{1,5})/?")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s/:@\[\],]+)(?::([0-9]{1,5}))?")
_WANTED = (
    "expected embedded, grpc://HOST:PORT, redis://HOST:PORT/DB, rediss://HOST:PORT/DB, "
    "redis+sentinel://HOST:PORT,HOST:PORT/MASTER or redis+cluster://HOST:PORT,HOST:PORT"
)
_PORT_HINT = "the port must be a number up to 65535; in a password write special characters as %XX"


@dataclass(frozen=True, slots=True)
class RedisGroup:
    """Redis servers behind Sentinels, or of a Cluster, as a URL names them."""

    kind: Literal["sentinel", "cluster"]
    is_tls: bool
    # (host, port) of Sentinels, or of some of the Cluster's nodes.
    addresses: tuple[tuple[str, int], ...]
    username: str | None
    password: str | None
    # Sentinel: the name under which they watch the primary; the database's number.
    master: str = ""
    db: int = 0
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    # Of redis-py, for TLS.
    options: dict[str, str | bool] = field(default_factory=dict)


def check_store_url(url: str) -> str:
    """`url` itself. Raises ValueError, with what is wrong and no part of it, for no store's URL."""
    if url == EMBEDDED:
        return url
    scheme = url.partition("://")[0]
    if scheme == "grpc":
        match = _GRPC.fullmatch(url)
        if match is None or not 0 < int(match[2]) <= 65535:
            raise ValueError("expected grpc://HOST:PORT")
    elif scheme in GROUP_SCHEMES and "://" in url:
        parse_group(url)
    elif scheme in REDIS_SCHEMES:
        problem = _redis_problem(url)
        if problem is not None:
            raise ValueError(problem)
    else:
        raise ValueError(_WANTED)
    return url


def with_login(url: str, username: str | None, password: str | None) -> str:
    """`url` of Redis with who logs in. Raises ValueError, with no part of it, where that makes no
    sense: for another store, or when it says so itself.
    """
    scheme, separator, rest = url.partition("://")
    if scheme not in (*REDIS_SCHEMES, *GROUP_SCHEMES) or not separator:
        raise ValueError("username and password are for Redis")
    if "@" in rest.partition("?")[0]:
        raise ValueError("username and password are in the URL already: give them once")
    login = f"{quote(username or '', safe='')}:{quote(password or '', safe='')}"
    return f"{scheme}://{login}@{rest}"


def is_group(url: str) -> bool:
    """Whether the URL names Sentinels or a Cluster."""
    return url.partition("://")[0] in GROUP_SCHEMES


def parse_group(url: str) -> RedisGroup:
    """What a URL of Sentinels or of a Cluster says. Raises ValueError as `check_store_url`."""
    scheme, _, rest = url.partition("://")
    tls, _, name = scheme.partition("+")
    kind: Literal["sentinel", "cluster"] = "sentinel" if name == "sentinel" else "cluster"
    shape = f"{scheme}://HOST:PORT,HOST:PORT" + ("/MASTER/DB" if kind == "sentinel" else "")
    rest, _, query = rest.partition("?")
    if "#" in rest:
        raise ValueError(_PORT_HINT)
    where, _, path = rest.partition("/")
    login, _, hosts = where.rpartition("@")
    username, _, password = login.partition(":")
    addresses = tuple(_address(one, _PORTS[kind], shape) for one in hosts.split(","))
    segments = [unquote(segment) for segment in path.strip("/").split("/")] if path else []
    options = _options(query, kind)
    group = RedisGroup(
        kind,
        tls == "rediss",
        addresses,
        unquote(username) or None,
        unquote(password) or None,
        sentinel_username=options.pop("sentinel_username", None),
        sentinel_password=options.pop("sentinel_password", None),
        options={name: _flag(name, value) for name, value in options.items()},
    )
    if group.options and not group.is_tls:
        raise ValueError(f"TLS options need rediss+{kind}://")
    return _placed(group, segments, shape)


def _placed(group: RedisGroup, segments: list[str], shape: str) -> RedisGroup:
    """With what the path says: master and database."""
    if group.kind == "cluster":
        if segments not in ([], [""], ["0"]):
            raise ValueError("a Redis Cluster has database 0 only; leave the path out")
        return group
    if not segments or not segments[0]:
        raise ValueError(f"no name of the primary; expected {shape}")
    db = segments[1] if len(segments) > 1 else "0"
    if len(segments) > 2 or not db.isdecimal():
        raise ValueError(f"the database must be a number; expected {shape}")
    return replace(group, master=segments[0], db=int(db))


def _address(text: str, default_port: int, shape: str) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    if match is None:
        raise ValueError(_PORT_HINT if text else f"no host; expected {shape}")
    port = int(match[2]) if match[2] else default_port
    if not 0 < port <= 65535:
        raise ValueError(_PORT_HINT if port else "port 0; give the port that Redis listens on")
    return match[1].strip("[]"), port


def _options(query: str, kind: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    known = _TLS_OPTIONS | (_SENTINEL_OPTIONS if kind == "sentinel" else frozenset())
    if unknown := sorted(options.keys() - known):
        raise ValueError(
            f"unknown options: {', '.join(unknown)[:100]}; there are {', '.join(sorted(known))}"
        )
    return options


def _flag(name: str, value: str) -> str | bool:
    return value.lower() not in ("0", "false", "no") if name == "ssl_check_hostname" else value


def _redis_problem(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # An unescaped "/" or "#" in a password ends the host early.
        return _PORT_HINT
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
