"""Addresses that this process listens at or connects to, and what is wrong with one."""

from __future__ import annotations

import errno
import socket
from typing import Any

from baton.core.errors import ConfigError

_IN_USE = "the port is in use; choose another, or 0 for any free one"


def listening_socket(host: str, port: int, backlog: int = 2048) -> socket.socket:
    """A socket that listens; at `::` for IPv4, too.

    Raises ConfigError naming host and port when they cannot be had.
    """
    both = host == "::" and socket.has_dualstack_ipv6()
    problem: OSError | None = None
    for family, address in _found(host, port):
        try:
            return socket.create_server(
                address, family=family, backlog=backlog, dualstack_ipv6=both
            )
        except OSError as error:
            # A name may have addresses that this machine lacks (::1 without IPv6).
            problem = problem or error
    assert problem is not None
    reason = _IN_USE if problem.errno == errno.EADDRINUSE else problem.strerror or str(problem)
    raise cannot_listen(host, port, reason) from problem


def check_bindable(host: str, port: int) -> None:
    """Raise ConfigError when TCP `port` on `host` is taken or may not be used (0: any port)."""
    problem: OSError | None = None
    bound = False
    for family, address in _found(host, port):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                bound = True
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise cannot_listen(host, port, _IN_USE) from error
            problem = error
    # A name may have addresses that this machine lacks (::1 without IPv6): one is enough.
    if problem is not None and not bound:
        raise cannot_listen(host, port, problem.strerror or str(problem)) from problem


def join_address(host: str, port: int) -> str:
    """`HOST:PORT`, with brackets around IPv6 addresses."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """Host and port of what `join_address` made."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def cannot_listen(host: str, port: int, reason: str) -> ConfigError:
    """What to raise when `host` and `port` cannot be had."""
    return ConfigError(f"cannot listen on {join_address(host, port)}: {reason}")


def _found(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    """Family and address of all that a host stands for."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot listen on {host!r}: not an address of this machine") from error
    return [(family, address) for family, _, _, _, address in found]
