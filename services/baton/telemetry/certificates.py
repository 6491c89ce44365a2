"""A process's certificate for TLS: read from files, checked, and read again when these change.

Kubernetes replaces the files of a mounted Secret when the Secret changes, as cert-manager does well
before a certificate ends; who serves for months must notice.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from baton.core.errors import ConfigError
from baton.telemetry.logging import event

log = logging.getLogger(__name__)

# Between two looks at the files; connections are made more often than certificates.
LOOK_EVERY_S = 1.0
# Files that are replaced while they are read are read again.
_READ_TRIES = 3

_Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: a certificate with its chain, its key, and for mutual TLS the authorities.

    `setting` is what the names of the settings begin with, for messages: `tls.` of `tls.cert_file`.
    `server_name` is the name that a certificate of such files must have; None: any.
    """

    setting: str
    cert: Path
    key: Path
    ca: Path | None = None
    server_name: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """The files' content at one time, which has been found to fit together."""

    cert: bytes
    key: bytes
    ca: bytes | None
    server: ssl.SSLContext
    """For a server; asks clients for no certificate unless there is a `ca`."""
    client: ssl.SSLContext | None
    """For who calls such a server; None without a `ca`."""


class Certificates:
    """The identity in some files, as of now. May be used from any thread."""

    def __init__(self, files: TlsFiles, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ConfigError, naming the setting and what to do, for files that cannot be used."""
        self._files = files
        self._clock = clock
        self._lock = threading.Lock()
        self._looked_at = clock()
        self._stamp = _stamp(files)
        self._identity = read(files)

    def latest(self) -> Identity:
        """The same object until the files have changed; the last good one while they are bad."""
        with self._lock:
            now = self._clock()
            if now - self._looked_at >= LOOK_EVERY_S:
                self._looked_at = now
                self._look()
            return self._identity

    def server_context(self) -> ssl.SSLContext:
        """A context that hands each connection on to the one of the latest identity."""
        first = self.latest().server

        def on_hello(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            # Called whether or not the client names a server.
            latest = self.latest().server
            if latest is not context:
                connection.context = latest

        first.sni_callback = on_hello
        return first

    def _look(self) -> None:
        stamp = _stamp(self._files)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        cert = str(self._files.cert)
        try:
            self._identity = read(self._files)
        except ConfigError as error:
            # Once for each state of the files; connections that are open stay so.
            log.error(*event("certificate_not_renewed", file=cert, error=str(error)))
        else:
            log.info(*event("certificate_renewed", file=cert))


def read(files: TlsFiles) -> Identity:
    """Read and check the files. Raises ConfigError."""
    for _ in range(_READ_TRIES):
        before = _stamp(files)
        try:
            identity = _read(files)
        except ConfigError:
            if _stamp(files) == before:
                raise
        else:
            # Else a certificate may have come with the key of the one before.
            if _stamp(files) == before:
                return identity
    raise ConfigError(f"{files.setting}cert_file = {files.cert}: the file changes all the time")


def _read(files: TlsFiles) -> Identity:
    cert = _content(files, "cert_file", files.cert, "CERTIFICATE")
    key = _content(files, "key_file", files.key, "PRIVATE KEY")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load_chain(context, files)
    if files.ca is None:
        return Identity(cert, key, None, context, None)
    ca = _content(files, "ca_file", files.ca, "CERTIFICATE")
    _trust(context, files, ca)
    context.verify_mode = ssl.CERT_REQUIRED
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = files.server_name is not None
    _trust(client, files, ca)
    _load_chain(client, files)
    _greet(client, context, files)
    return Identity(cert, key, ca, context, client)


def _content(files: TlsFiles, name: str, path: Path, label: str) -> bytes:
    where = f"{files.setting}{name} = {path}"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{where}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read: {error.strerror or error}") from error
    if label.encode() + b"-----" not in content:
        raise ConfigError(f"{where}: holds no PEM block `-----BEGIN {label}-----`")
    return content


def _load_chain(context: ssl.SSLContext, files: TlsFiles) -> None:
    def refuse_encrypted() -> str:
        raise ConfigError(
            f"{files.setting}key_file = {files.key}: the key is encrypted; write it without a "
            "password: openssl pkey -in OLD -out NEW"
        )

    try:
        context.load_cert_chain(files.cert, files.key, password=refuse_encrypted)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"{files.setting}key_file = {files.key}: the key does not belong to the first "
                f"certificate in {files.cert}; name the two that were made together"
            ) from error
        raise ConfigError(
            f"{files.setting}cert_file = {files.cert}, {files.setting}key_file = {files.key}: "
            f"not a PEM certificate and its key ({_reason(error)})"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{files.setting}cert_file = {files.cert}: cannot be read: {error.strerror or error}"
        ) from error


def _trust(context: ssl.SSLContext, files: TlsFiles, ca: bytes) -> None:
    try:
        context.load_verify_locations(cadata=ca.decode("ascii", "replace"))
    except ssl.SSLError as error:
        raise ConfigError(
            f"{files.setting}ca_file = {files.ca}: not PEM certificates ({_reason(error)})"
        ) from error


def _greet(client: ssl.SSLContext, server: ssl.SSLContext, files: TlsFiles) -> None:
    """A handshake with oneself, in memory: what a peer with the same kind of files would say.

    It finds a foreign authority, a wrong name, an end that is past, and a certificate that is not
    for servers and clients both.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=files.server_name),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    try:
        # Three flights: the server has judged the client's certificate after the last.
        for _ in range(3):
            for end in ends:
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
    except ssl.SSLError as error:
        raise ConfigError(
            f"{files.setting}cert_file = {files.cert} is none that others of this deployment "
            f"accept: {_reason(error)}. It must be signed by an authority in {files.ca}, be valid "
            f"now, for servers and clients, and for the name {files.server_name!r} "
            f"({files.setting}server_name)"
        ) from error


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return error.reason or str(error)


def _stamp(files: TlsFiles) -> _Stamp:
    """Differs when a file has been replaced, written to, or made."""
    found: list[tuple[int, int, int] | None] = []
    for path in (files.cert, files.key, files.ca):
        try:
            status = None if path is None else os.stat(path)
        except OSError:
            status = None
        found.append(status and (status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)
