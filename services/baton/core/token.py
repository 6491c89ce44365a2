"""The deployment's token: a secret in a file, which every hop between Baton's processes shows."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from baton.core.errors import ConfigError

NAME_THE_FILE = (
    "start this process with the deployment's token file (--token-file, BATON_TOKEN_FILE or "
    "token_file)"
)
"""What to tell who calls without the token."""
EMPTY_TOKEN = "the deployment's token is empty; look at the file in token_file"
TOKEN_BYTES = 32
MAX_FILE_BYTES = 4096


def new_token() -> str:
    """A fresh token: 256 random bits in URL-safe text."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def read_token(path: Path) -> str:
    """The token in `path`, without the white space around it.

    Raises ConfigError, naming the file and what to do, when it is missing, not readable, open to
    other users, empty, or holds what no header can carry.
    """
    path = path.expanduser()
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"token file {path} does not exist") from None
    except OSError as error:
        raise ConfigError(f"cannot read token file {path}: {error.strerror or error}") from error
    # Groups may read: that is how Kubernetes mounts secrets for a pod's fsGroup.
    if mode & stat.S_IRWXO and stat.S_ISREG(mode):
        raise ConfigError(
            f"token file {path} is open to every user (mode {stat.S_IMODE(mode):04o}); "
            f"run: chmod 600 {path}"
        )
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"token file {path} is over {MAX_FILE_BYTES} bytes: not a token")
    token = raw.strip()
    if not token:
        raise ConfigError(
            f"token file {path} is empty; delete it to have one made, or write a token into it"
        )
    if not all(0x21 <= byte <= 0x7E for byte in token):
        raise ConfigError(
            f"token file {path} must hold one token of printable ASCII without spaces"
        )
    return token.decode("ascii")


def read_or_create_token(path: Path) -> str:
    """The token in `path`; made there with mode 0600 when the file does not exist.

    Processes that start at once agree: the file appears whole, and the first one's is everyone's.
    Raises ConfigError as `read_token` does, or when the file cannot be made.
    """
    path = path.expanduser()
    if not os.path.lexists(path):
        _create(path)
    return read_token(path)


def _create(path: Path) -> None:
    # Linking a finished file into place never replaces another and never shows a part.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(new_token() + "\n")
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink()
    except OSError as error:
        reason = f"{error.strerror} ({error.filename})"
        raise ConfigError(f"cannot make token file {path}: {reason}") from error
