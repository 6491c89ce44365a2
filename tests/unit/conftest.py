"""What tests of TLS between our own processes share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from baton.core.settings import TlsSettings
from baton.telemetry import certificates
from baton.telemetry.deployment_tls import use_tls
from fakes.certificates import Authority, Files


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> Files:
    return authority.issue(tmp_path / "mine", "baton")


@pytest.fixture
def own_tls(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that calls `use_tls`, and replaces files."""
    monkeypatch.setattr(certificates, "LOOK_EVERY_S", 0.0)
    yield
    use_tls(TlsSettings())
