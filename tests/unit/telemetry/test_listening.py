"""Listening at a name of which this machine has only some addresses."""

from __future__ import annotations

import socket

import pytest

from baton.core.errors import ConfigError
from baton.telemetry.addresses import check_bindable, listening_socket

# For documentation (RFC 5737): no machine has it.
_LACKED = "192.0.2.1"


def _name_for(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)


def test_one_address_that_is_there_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    _name_for(monkeypatch, _LACKED, "127.0.0.1")
    check_bindable("worker", 0)
    with listening_socket("worker", 0) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"


def test_without_any_the_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _name_for(monkeypatch, _LACKED, _LACKED)
    with pytest.raises(ConfigError, match=r"cannot listen on worker:0: .*assign"):
        listening_socket("worker", 0)
