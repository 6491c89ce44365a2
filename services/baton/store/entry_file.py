"""The embedded store's lasting entries (those without a TTL) in a file."""

from __future__ import annotations

import base64
import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from baton.core.errors import ConfigError

_VERSION = 1


def load_entries(path: Path) -> dict[str, bytes]:
    """The entries in `path`; none when there is no file.

    Raises ConfigError, naming the file, when it cannot be read, is open to other users, or is not
    one of ours.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"cannot read store.file {path}: {error.strerror or error}") from error
    if mode & stat.S_IRWXO:
        raise ConfigError(f"store.file {path} is open to every user; run: chmod 600 {path}")
    try:
        document = json.loads(raw)
        if document["version"] != _VERSION:
            raise ValueError(f"version {document['version']}")
        return {key: base64.b64decode(value) for key, value in document["entries"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"store.file {path} is not a file of this store: {error}") from error


def save_entries(path: Path, entries: Mapping[str, bytes]) -> None:
    """Replace the file, with mode 0600, so that a crash leaves the old one or the new one.

    Raises OSError.
    """
    document = {
        "version": _VERSION,
        "entries": {key: base64.b64encode(value).decode() for key, value in entries.items()},
    }
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
