"""Weights of a Hugging Face folder: safetensors only, one file or an indexed set of shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from baton.core import model_folder
from baton.core.errors import ModelLoadError
from baton.core.hub import ByteProgress

# Buffers that some exporters store; they are computed here.
_DERIVED = ("rotary_emb.inv_freq", "attn.masked_bias", "attn.bias")
_FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


class Checkpoint:
    """Tensors by name, checked for presence, shape and kind.

    Every problem is a ModelLoadError that names the file and says what to do. Files are mapped, not
    read, until a tensor is asked for. `progress` hears how many bytes of the files have been.
    """

    def __init__(
        self,
        folder: Path,
        dtype: torch.dtype,
        device: torch.device,
        progress: ByteProgress = lambda done, total: None,
    ) -> None:
        self.folder = folder
        self.dtype = dtype
        self.device = device
        self._where: dict[str, tuple[Path, Any]] = {}
        for path in model_folder.weight_files(folder):
            try:
                file: Any = safe_open(path, framework="pt")
                self._where |= dict.fromkeys(file.keys(), (path, file))
            except (OSError, SafetensorError) as error:
                raise ModelLoadError(
                    f"{path} is truncated or no safetensors file ({error}); download it again"
                ) from error
        self._unused = set(self._where)
        self._progress = progress
        self._num_bytes = 0
        self._total_bytes = sum(
            path.stat().st_size for path in {p for p, _ in self._where.values()}
        )

    def has(self, name: str) -> bool:
        return name in self._where

    def tensor(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """A copy of the tensor on the checkpoint's device in its dtype, contiguous."""
        if name not in self._where:
            raise ModelLoadError(
                f"{self.folder}: no safetensors file holds the tensor {name!r}; the checkpoint is "
                "incomplete (download it again) or of another architecture than config.json says"
            )
        path, file = self._where[name]
        try:
            tensor: torch.Tensor = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ModelLoadError(
                f"{path} cannot give {name!r} ({error}); download it again"
            ) from error
        if tuple(tensor.shape) != tuple(shape):
            raise ModelLoadError(
                f"{path} holds {name!r} with shape {list(tensor.shape)}, but config.json makes it "
                f"{list(shape)}; take both from the same revision of the model"
            )
        if tensor.dtype not in _FLOATS:
            raise ModelLoadError(
                f"{path} holds {name!r} as {tensor.dtype}; quantised weights are not served, take "
                "the model's bfloat16 or float32 version"
            )
        self._unused.discard(name)
        loaded = tensor.to(device=self.device, dtype=self.dtype, copy=True).contiguous()
        self._num_bytes += tensor.nbytes
        self._progress(self._num_bytes, self._total_bytes)
        return loaded

    def skip(self, name: str) -> None:
        """The model does not need this tensor, should there be one."""
        self._unused.discard(name)

    def check_all_used(self) -> None:
        """Weights that nothing asked for mean that the model is not what config.json says."""
        left = sorted(n for n in self._unused if not n.endswith(_DERIVED))
        if left:
            path, _ = self._where[left[0]]
            raise ModelLoadError(
                f"{path} holds {left[0]!r}"
                + (f" and {len(left) - 1} more tensors" if len(left) > 1 else "")
                + ", which the architecture in config.json has no place for; take both from the "
                "same revision of the model"
            )
