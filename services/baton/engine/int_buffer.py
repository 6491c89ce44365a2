"""A growing int32 array, so that a batch takes views instead of copying lists every step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]


class IntBuffer:
    """`data[:size]` is the content; `data` is replaced when it must grow."""

    __slots__ = ("data", "size")

    def __init__(self, values: Sequence[int] | Int32 = (), spare: int = 16) -> None:
        self.size = len(values)
        self.data: Int32 = np.empty(self.size + spare, dtype=np.int32)
        self.data[: self.size] = values

    def append(self, value: int) -> None:
        if self.size == len(self.data):
            self._grow(self.size + 1)
        self.data[self.size] = value
        self.size += 1

    def extend(self, values: Sequence[int] | Int32) -> None:
        end = self.size + len(values)
        if end > len(self.data):
            self._grow(end)
        self.data[self.size : end] = values
        self.size = end

    def view(self) -> Int32:
        """The content `[size]`, valid until the next append."""
        return self.data[: self.size]

    def tolist(self) -> list[int]:
        values: list[int] = self.data[: self.size].tolist()
        return values

    def copy(self) -> IntBuffer:
        return IntBuffer(self.view())

    def clear(self) -> None:
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def _grow(self, least: int) -> None:
        grown = np.empty(max(least, 2 * len(self.data)), dtype=np.int32)
        grown[: self.size] = self.data[: self.size]
        self.data = grown
