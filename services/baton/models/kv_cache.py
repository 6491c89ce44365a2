"""The memory of one attention group's KV: a byte arena, seen layer by layer by the kernels."""

from __future__ import annotations

import mmap
from pathlib import Path

import torch

from baton.core.errors import ConfigError
from baton.core.kv import GroupSpec

TORCH_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}


class KvArena:
    """`num_blocks` blocks of `spec.block_bytes`, page-aligned and zeroed, on `device`.

    `memory` [num_blocks, block_bytes] uint8 is what transfers see; `layers[i]`
    [num_blocks, kv_heads, 2, block_size, dim] is layer i's view of the same bytes.
    Raises ConfigError when there is not that much memory.
    """

    def __init__(self, spec: GroupSpec, num_blocks: int, device: torch.device) -> None:
        if spec.kind != "full" or spec.k_dim != spec.v_dim:
            raise ValueError(f"no arena layout for {spec}")
        self.spec = spec
        self.num_blocks = num_blocks
        self.memory = _allocate(num_blocks * spec.block_bytes, device).view(num_blocks, -1)
        layers = self.memory.view(TORCH_DTYPES[spec.dtype]).view(
            num_blocks, spec.num_layers, spec.num_kv_heads, 2, spec.block_size, spec.k_dim
        )
        self.layers = [layers[:, i] for i in range(spec.num_layers)]


def _allocate(num_bytes: int, device: torch.device) -> torch.Tensor:
    """Zeroed bytes from the start of a page on."""
    available = available_memory(device)
    problem = f"only {_size(available)} of memory are available"
    # Linux promises memory that it does not have and kills the process later, so ask first.
    if num_bytes <= available:
        page = mmap.PAGESIZE
        try:
            memory = torch.zeros(num_bytes + page, dtype=torch.uint8, device=device)
        except (RuntimeError, MemoryError) as error:
            problem = f"the allocation failed ({str(error).splitlines()[0]})"
        else:
            start = -memory.data_ptr() % page
            return memory[start : start + num_bytes]
    raise ConfigError(
        f"the KV pool needs {_size(num_bytes)} on {device}, but {problem}; lower --kv-memory or "
        "--kv-blocks"
    )


def available_memory(device: torch.device) -> int:
    """Bytes that can still be allocated: free GPU memory, or what host and container leave."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    rooms = [
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    ]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            rooms.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such cgroup version, or no limit ("max")
            continue
    return max(0, min(rooms))


def _size(num_bytes: int) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes} bytes"
