"""Files of certificates: what is refused and how, and that new ones are noticed."""

from __future__ import annotations

import datetime
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from baton.core.errors import ConfigError
from baton.telemetry.certificates import LOOK_EVERY_S, Certificates, TlsFiles
from fakes.certificates import Authority, Files
from fakes.clock import ManualClock

YESTERDAY = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def mutual(files: Files, server_name: str = "baton") -> TlsFiles:
    return TlsFiles("tls.", files.cert, files.key, files.ca, server_name)


def one_sided(files: Files) -> TlsFiles:
    return TlsFiles("gateway.tls_", files.cert, files.key)


def test_good_files_are_read(files: Files) -> None:
    identity = Certificates(mutual(files)).latest()
    assert identity.cert == files.cert.read_bytes()
    assert identity.key == files.key.read_bytes()
    assert identity.ca == files.ca.read_bytes()
    assert identity.server.verify_mode == ssl.CERT_REQUIRED


def test_without_authorities_clients_need_no_certificate(files: Files) -> None:
    identity = Certificates(one_sided(files)).latest()
    assert identity.ca is None
    assert identity.server.verify_mode == ssl.CERT_NONE


def _missing_key(files: Files, folder: Path) -> None:
    files.key.unlink()


def _folder_as_cert(files: Files, folder: Path) -> None:
    files.cert.unlink()
    files.cert.mkdir()


def _no_pem(files: Files, folder: Path) -> None:
    files.cert.write_text("not a certificate")


def _broken_pem(files: Files, folder: Path) -> None:
    files.cert.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


def _key_of_another(files: Files, folder: Path) -> None:
    files.key.write_bytes(Authority().issue(folder / "other", "baton").key.read_bytes())


def _encrypted_key(files: Files, folder: Path) -> None:
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


def _swapped(files: Files, folder: Path) -> None:
    cert, key = files.cert.read_bytes(), files.key.read_bytes()
    files.cert.write_bytes(key)
    files.key.write_bytes(cert)


@pytest.mark.parametrize(
    ("spoil", "setting", "reason"),
    [
        (_missing_key, "key_file", "there is no such file"),
        (_folder_as_cert, "cert_file", "cannot be read"),
        (_no_pem, "cert_file", "holds no PEM block"),
        (_broken_pem, "cert_file", "not a PEM certificate and its key"),
        (_key_of_another, "key_file", "does not belong to the first certificate"),
        (_encrypted_key, "key_file", "is encrypted; write it without a password"),
        (_swapped, "cert_file", "holds no PEM block `-----BEGIN CERTIFICATE-----`"),
    ],
)
def test_unusable_files_are_named_with_what_to_do(
    files: Files,
    tmp_path: Path,
    spoil: Callable[[Files, Path], None],
    setting: str,
    reason: str,
) -> None:
    spoil(files, tmp_path)
    with pytest.raises(ConfigError, match=reason) as caught:
        Certificates(one_sided(files))
    assert f"gateway.tls_{setting} = {files.folder}" in str(caught.value)


def test_authorities_that_are_none_are_refused(files: Files) -> None:
    files.ca.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match=r"tls\.ca_file = .*: not PEM certificates"):
        Certificates(mutual(files))


def test_a_certificate_of_another_authority_is_refused_at_start(files: Files) -> None:
    files.ca.write_bytes(Authority().pem)
    with pytest.raises(ConfigError, match="none that others of this deployment accept"):
        Certificates(mutual(files))


def test_a_certificate_with_another_name_is_refused_at_start(files: Files) -> None:
    with pytest.raises(ConfigError, match="for the name 'llm'"):
        Certificates(mutual(files, server_name="llm"))


def test_a_certificate_that_has_ended_is_refused_at_start(
    authority: Authority, tmp_path: Path
) -> None:
    files = authority.issue(tmp_path / "old", "baton", valid_until=YESTERDAY)
    with pytest.raises(ConfigError, match="certificate has expired"):
        Certificates(mutual(files))


def test_new_files_are_noticed_and_the_same_ones_are_not(
    authority: Authority, files: Files
) -> None:
    clock = ManualClock()
    certificates = Certificates(mutual(files), clock)
    first = certificates.latest()
    clock.advance(LOOK_EVERY_S)
    assert certificates.latest() is first

    authority.issue(files.folder, "baton")
    assert certificates.latest() is first  # looked at a moment ago
    clock.advance(LOOK_EVERY_S)
    second = certificates.latest()
    assert second is not first
    assert second.cert == files.cert.read_bytes()


def test_a_mount_of_kubernetes_is_followed(authority: Authority, tmp_path: Path) -> None:
    """A Secret's files are links to `..data/FILE`, and `..data` is a link that is replaced."""
    for version in ("1", "2"):
        authority.issue(tmp_path / version, "baton")
    mount = tmp_path / "mount"
    mount.mkdir()
    (mount / "..data").symlink_to(tmp_path / "1")
    files = Files(mount)
    for path in (files.cert, files.key, files.ca):
        path.symlink_to(Path("..data") / path.name)
    clock = ManualClock()
    certificates = Certificates(mutual(files), clock)
    assert certificates.latest().cert == (tmp_path / "1" / "tls.crt").read_bytes()

    (mount / "..new").symlink_to(tmp_path / "2")
    (mount / "..new").replace(mount / "..data")
    clock.advance(LOOK_EVERY_S)
    assert certificates.latest().cert == (tmp_path / "2" / "tls.crt").read_bytes()


def test_bad_new_files_are_logged_once_and_the_last_good_ones_stay(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    certificates = Certificates(mutual(files), clock)
    first, key = certificates.latest(), files.key.read_bytes()
    files.key.unlink()
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            clock.advance(LOOK_EVERY_S)
            assert certificates.latest() is first
    assert len(caplog.records) == 1
    assert "certificate_not_renewed" in caplog.text

    files.key.write_bytes(key)
    clock.advance(LOOK_EVERY_S)
    assert certificates.latest() is not first
