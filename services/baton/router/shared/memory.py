"""Memory that several processes map: an anonymous sparse file, handed on by its descriptor.

It is divided into regions, each mapped as far as it is used, so that one grows by a longer mapping
and nothing is copied. Untouched pages take no memory, `/dev/shm`'s size is no bound, and the kernel
frees everything with the last process that has it open, however that one ends.
"""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np
import numpy.typing as npt

REGION_BYTES = 2**40
NUM_REGIONS = 8


class SharedFile:
    """`fd` is of a file that `create` made, here or in a process that this one was started by."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def create(cls) -> SharedFile:
        """Zeros. Raises OSError, or AttributeError on a system without such files."""
        fd = os.memfd_create("baton-index")
        try:
            os.ftruncate(fd, NUM_REGIONS * REGION_BYTES)
        except OSError:
            os.close(fd)
            raise
        return cls(fd)

    def map(self, region: int, num_bytes: int, *, writable: bool) -> mmap.mmap:
        """The start of a region."""
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        offset = region * REGION_BYTES
        return mmap.mmap(self.fd, num_bytes, mmap.MAP_SHARED, access, offset=offset)

    def close(self) -> None:
        """Arrays of it stay usable. Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class SharedArray:
    """One region as an array whose rows have this `shape`; for readers it cannot be written to."""

    def __init__(
        self,
        file: SharedFile,
        region: int,
        dtype: npt.DTypeLike,
        shape: tuple[int, ...] = (),
        *,
        least: int,
        writable: bool,
    ) -> None:
        self._file = file
        self._region = region
        self._dtype = np.dtype(dtype)
        self._shape = shape
        self._writable = writable
        self.rows = self._map(least)

    def reserve(self, num_rows: int) -> npt.NDArray[Any]:
        """At least so many rows. Arrays of before stay views of the same memory."""
        if num_rows > len(self.rows):
            self.rows = self._map(max(num_rows, 2 * len(self.rows)))
        return self.rows

    def _map(self, num_rows: int) -> npt.NDArray[Any]:
        row_bytes = self._dtype.itemsize * int(np.prod(self._shape, dtype=np.int64))
        mapped = self._file.map(self._region, num_rows * row_bytes, writable=self._writable)
        return np.frombuffer(mapped, self._dtype).reshape(num_rows, *self._shape)
