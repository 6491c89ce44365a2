"""What carries the bytes to a peer: inferred, measured, said."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from baton.core.errors import HandoffError
from baton.core.settings import TransferSettings
from baton.transfer.base import LinkInfo
from baton.transfer.preflight import (
    MEASURE_BYTES,
    SCRATCH_BYTES,
    Endpoint,
    fabric,
    has_rdma,
    measure,
    unpack,
    warn_of_fabric,
)

HOSTS, GPUS, MIXED = ["DRAM", "DRAM"], ["VRAM", "VRAM"], ["DRAM", "VRAM"]


@pytest.mark.parametrize(
    ("ucx_tls", "same_node", "rdma", "memories", "expected"),
    [
        (None, True, False, HOSTS, "shared memory"),
        ("all", True, True, HOSTS, "shared memory"),
        ("tcp,self", True, False, HOSTS, "tcp"),
        ("^sm", True, False, HOSTS, "tcp"),
        ("rc,sm", True, True, HOSTS, "shared memory"),
        (None, False, False, HOSTS, "tcp"),
        (None, False, True, HOSTS, "rdma"),
        (None, False, True, GPUS, "rdma"),
        ("tcp", False, True, HOSTS, "tcp"),
        ("^ib", False, True, HOSTS, "tcp"),
        ("rc", False, False, HOSTS, "unknown"),
        (None, True, False, GPUS, "cuda_ipc"),
        ("tcp,cuda_copy", True, False, GPUS, "unknown"),
        (None, True, False, MIXED, "tcp"),
        ("self", True, False, HOSTS, "unknown"),
    ],
)
def test_fabric_is_the_fastest_that_both_ends_may_use(
    ucx_tls: str | None, same_node: bool, rdma: bool, memories: list[str], expected: str
) -> None:
    assert fabric(ucx_tls, same_node=same_node, rdma=rdma, memories=memories) == expected


def test_rdma_needs_a_device_that_the_settings_let_ucx_use(tmp_path: Path) -> None:
    assert not has_rdma(None, tmp_path / "none")
    assert not has_rdma("all", tmp_path)
    (tmp_path / "mlx5_0").mkdir()
    assert has_rdma(None, tmp_path) and has_rdma("all", tmp_path) and has_rdma("", tmp_path)
    assert has_rdma("eth0,mlx5_0:1", tmp_path)
    assert not has_rdma("lo", tmp_path)


def test_endpoint_comes_before_the_agents_own_metadata() -> None:
    endpoint = Endpoint(2**47, "boot/pid", True)
    assert unpack(endpoint.pack(b"\x00agent")) == (endpoint, b"\x00agent")
    for wrong in (b"", b"\xff" * 3, b"inproc.1", b'{"dist": {}}', b"\x02\x00\x00\x00[]"):
        with pytest.raises(HandoffError, match="not of this transport"):
            unpack(wrong)


def test_measurement_is_bounded_and_gives_way_to_work() -> None:
    written: list[int] = []

    def write() -> bool:
        written.append(SCRATCH_BYTES)
        return True

    rate = measure(write, lambda: False)
    assert rate is not None and rate > 0
    assert sum(written) <= MEASURE_BYTES + SCRATCH_BYTES
    assert measure(write, lambda: True) is None
    assert measure(lambda: False, lambda: False) == 0.0


@pytest.mark.parametrize(
    ("expect_rdma", "found", "loud"),
    [(True, "tcp", True), (True, "unknown", True), (True, "rdma", False), (False, "tcp", False)],
)
def test_missing_rdma_is_said_loudly_where_it_was_expected(
    caplog: pytest.LogCaptureFixture, expect_rdma: bool, found: str, loud: bool
) -> None:
    settings = TransferSettings(expect_rdma=expect_rdma)
    with caplog.at_level(logging.INFO):
        warn_of_fabric(settings, "nixl", "decode-0", LinkInfo(found, 1e9))
    assert "peer_link" in caplog.text
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert bool(errors) is loud
    assert all("rdma_expected" in record.getMessage() for record in errors)
