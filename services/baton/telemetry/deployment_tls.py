"""Mutual TLS between Baton's own processes: who it is belongs to a process as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from baton.core.settings import TlsSettings
from baton.telemetry.certificates import Certificates, TlsFiles


@dataclass(frozen=True, slots=True)
class DeploymentTls:
    """What proves to others who this process is, and the name that they must have.

    Certificates of pods are for a name, not for the address that a pod happens to get.
    """

    certificates: Certificates
    server_name: str


_tls: DeploymentTls | None = None


def use_tls(settings: TlsSettings) -> None:
    """Speak mutual TLS on connections and ports of this process made from now on, or no TLS.

    Raises ConfigError, naming the setting and what to do, for files that cannot be used.
    """
    global _tls
    if settings.cert_file is None:
        _tls = None
        return
    assert settings.key_file is not None and settings.ca_file is not None
    files = TlsFiles(
        "tls.", settings.cert_file, settings.key_file, settings.ca_file, settings.server_name
    )
    _tls = DeploymentTls(Certificates(files), settings.server_name)


def deployment_tls() -> DeploymentTls | None:
    """What `use_tls` was told last."""
    return _tls
