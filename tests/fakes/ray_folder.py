"""Where the Rays of one test keep their files: apart from those of tests that run beside it."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def ray_folder() -> Iterator[str]:
    """A folder to be TMPDIR, short enough for Ray's sockets. Afterwards no Ray's may be left."""
    folder = Path(f"/tmp/r{secrets.token_hex(2)}")
    folder.mkdir(mode=0o700)
    try:
        yield str(folder)
        assert list(folder.glob("baton-ray-*")) == []
    finally:
        shutil.rmtree(folder, ignore_errors=True)
