"""Amounts of memory as people write them."""

from __future__ import annotations

import pytest

from baton.cli.sizes import parse_size
from baton.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("1048576", 2**20),
        ("512MiB", 512 * 2**20),
        ("2gib", 2 * 2**30),
        (" 1.5 GB ", 1_500_000_000),
        ("3kB", 3000),
        ("1TiB", 2**40),
    ],
)
def test_sizes_with_and_without_units(text: str, num_bytes: int) -> None:
    assert parse_size(text, "--kv-memory") == num_bytes


@pytest.mark.parametrize("text", ["", "MiB", "-1GiB", "12XB", "1 2", "1e9", "0x10"])
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--kv-memory .* like 512MiB"):
        parse_size(text, "--kv-memory")
