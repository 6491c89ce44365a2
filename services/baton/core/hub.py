"""Downloading a model from a hub into its cache, with progress and errors that say what to do.

huggingface_hub keeps whole files from one try to the next, and within a try it resumes a file whose
connection breaks. A process that is killed leaves parts behind that nothing will use: `sweep` is
for those.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from baton.core.errors import ModelLoadError

# Bytes done, and of how many if that is known.
ByteProgress = Callable[[int, int | None], None]

# What is read of a repository; `*` crosses folders, so those are ruled out.
_WANTED = ["*.json", "*.jinja"]
_WEIGHTS = "*.safetensors"
_UNWANTED = ["*/*", "consolidated*"]

# Between two looks at the cache, whose files tell how far the download is.
LOOK_EVERY_S = 0.5
# Longest wait for the sizes of a repository's files, which a download goes without if need be.
LIST_WAIT_S = 10.0
# A part that nobody has written to for so long is a dead process's.
STALE_AFTER_S = 3600.0
_PART = ".incomplete"


def download(
    hub_id: str,
    revision: str | None = None,
    *,
    weights: bool = True,
    progress: ByteProgress | None = None,
) -> Path:
    """The folder in the cache that holds the model, named by its commit.

    Only what is missing is fetched. `progress` is called from another thread until this returns.
    Raises ModelLoadError.
    """
    # Imported here: it takes a third of a second, and folders need none of it.
    from huggingface_hub import constants, snapshot_download

    wanted = [*_WANTED, _WEIGHTS] if weights else _WANTED
    cache = Path(constants.HF_HUB_CACHE)
    try:
        with contextlib.ExitStack() as stack:
            if progress is not None:
                repository = cache / f"models--{hub_id.replace('/', '--')}"
                sweep(repository, time.time() - STALE_AFTER_S)
                files = _listing(hub_id, revision, wanted)
                if files is not None:
                    _check_room(hub_id, repository, files)
                stack.enter_context(_watched(repository, files, progress))
            folder = snapshot_download(
                hub_id, revision=revision, allow_patterns=wanted, ignore_patterns=_UNWANTED
            )
            return Path(folder)
    except Exception as error:  # its HTTP client, and so the client's errors, differ by version
        raise _explained(error, hub_id, revision, cache) from error


def sweep(repository: Path, before: float) -> None:
    """Remove parts of files that were last written to before this Unix time."""
    for part in repository.glob(f"blobs/*{_PART}"):
        with contextlib.suppress(OSError):
            if part.stat().st_mtime < before:
                part.unlink()


def drop_open_parts() -> None:
    """Remove the parts that this process is writing; for one that is about to end.

    From a signal handler too: downloads go on until the process has ended, into files that have no
    name any more.
    """
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/self/fd/{name}")
            if path.endswith(_PART):
                os.unlink(path)


# --- progress ---


def _listing(hub_id: str, revision: str | None, wanted: list[str]) -> dict[str, int] | None:
    """Sizes of the wanted files by name; None when the hub does not say."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(
            hub_id, revision=revision, timeout=LIST_WAIT_S, files_metadata=True
        )
    except Exception:
        # The download meets the same, and may find everything in the cache.
        return None
    return {
        file.rfilename: file.size or 0
        for file in info.siblings or ()
        if any(fnmatch(file.rfilename, pattern) for pattern in wanted)
        and not any(fnmatch(file.rfilename, pattern) for pattern in _UNWANTED)
    }


def _check_room(hub_id: str, repository: Path, files: dict[str, int]) -> None:
    """Raise ModelLoadError for a model that the disk cannot hold, before hours of downloading."""
    missing = sum(files.values()) - _present(repository, files)
    there = next(path for path in (repository, *repository.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if missing > free:
        raise ModelLoadError(
            f"no space for {hub_id}: {missing / 1e9:.1f} GB are still to be downloaded to "
            f"{repository}, where {free / 1e9:.1f} GB are free; make room, take a larger volume, "
            "or set HF_HOME to another one"
        )


def _present(repository: Path, files: dict[str, int] | None) -> int:
    """Bytes of the model that the cache holds, whole files and parts."""
    num_bytes = 0
    for snapshot in repository.glob("snapshots/*"):
        # An older snapshot's files count when they are the same: equal blobs are shared.
        names = files if files is not None else os.listdir(snapshot)
        sizes = [_size(snapshot / name) for name in names]
        num_bytes = max(num_bytes, sum(sizes))
    parts = sum(_size(part) for part in repository.glob(f"blobs/*{_PART}"))
    return num_bytes + parts


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


@contextlib.contextmanager
def _watched(
    repository: Path, files: dict[str, int] | None, progress: ByteProgress
) -> Iterator[None]:
    """Look at the cache every now and then, and once more at the end."""
    total = None if files is None else sum(files.values())

    def look() -> None:
        done = _present(repository, files)
        progress(done if total is None else min(done, total), total)

    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK_EVERY_S):
            look()

    look()
    thread = threading.Thread(target=watch, name="download-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    look()


# --- errors ---


def _explained(error: Exception, hub_id: str, revision: str | None, cache: Path) -> ModelLoadError:
    from huggingface_hub import errors

    at = f"{hub_id} (revision {revision})" if revision else hub_id
    match error:
        case ModelLoadError():
            return error
        case errors.GatedRepoError():
            text = f"{at} is gated: accept its terms on the hub and set HF_TOKEN"
        case errors.RevisionNotFoundError():
            text = f"{hub_id} has no revision {revision}; check --revision"
        case errors.RepositoryNotFoundError():
            text = (
                f"no folder and no model on the hub named {hub_id}; give baton-tiny, a folder or a "
                "hub id, and set HF_TOKEN if the model is private"
            )
        case errors.HFValidationError():
            text = f"{hub_id} is neither a folder nor a hub id: {error}"
        case _ if (status := _status(error)) in (401, 403):
            text = (
                f"the hub refused access to {at} ({status}): set HF_TOKEN to a valid token that "
                "may read it, or unset it for a public model"
            )
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG):
            text = (
                f"no space for {hub_id} in {cache} ({error.strerror}); make room, take a larger "
                "volume, or set HF_HOME to another one; whole files are kept for the next try"
            )
        case OSError(errno=errno.EACCES | errno.EPERM | errno.EROFS | errno.ENOTDIR):
            text = (
                f"the hub's cache cannot be written ({error}); set HF_HOME to a folder that this "
                "user may write to"
            )
        case _:
            text = (
                f"there is no folder {hub_id}, and the hub could not be reached for it "
                f"({_reason(error)}); check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or give "
                "a folder"
            )
    return ModelLoadError(text)


def _status(error: BaseException | None) -> int | None:
    """The hub's answer, which may lie below the library's own errors."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None


def _reason(error: BaseException) -> str:
    """What lies below the library's own words, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
