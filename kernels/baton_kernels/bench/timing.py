"""Median times, on whatever device there is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16
WARM_UP_RUNS = 5
TIMED_RUNS = 30


def report(name: str, num_bytes: int, **versions: Callable[[], object]) -> None:
    """Time each version of an op that moves `num_bytes`, and print a line for it."""
    for version, call in versions.items():
        us = median_us(call)
        gb_per_s = num_bytes / us / 1e3
        print(f"{name:40} {version:10} {us:10.1f} us {gb_per_s:9.1f} GB/s  {device_name()}")


@torch.inference_mode()
def median_us(call: Callable[[], object]) -> float:
    for _ in range(WARM_UP_RUNS):
        call()
    times = []
    for _ in range(TIMED_RUNS):
        _synchronize()
        start = time.perf_counter()
        call()
        _synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def device_name() -> str:
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def _synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
