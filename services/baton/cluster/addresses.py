"""HOST:PORT of Ray's processes, as text (pure)."""

from __future__ import annotations

from baton.core.errors import ConfigError


def address(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def leader_at(join: str, default_port: int) -> tuple[str, int]:
    """Host and port of HOST or HOST:PORT; an IPv6 address with a port has brackets.

    Raises ConfigError.
    """
    host, colon, port = join.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        host, port = join, str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"--join {join}: expected HOST or HOST:PORT of the leader's Ray")
    return host, int(port)


def is_local(host: str) -> bool:
    """Whether Ray would listen somewhere else: it takes these for the machine's outside address."""
    return host in ("localhost", "127.0.0.1", "::1", "[::1]")
