"""What stops a write that is under way, and what does not: the reason for the reuse rule."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from baton.transfer.nixl_sender import PIECE_BYTES
from fakes.bare_memory import BLOCK_BYTES, NUM_BLOCKS, owner_main, writer_main
from fakes.nixl_process import Child, child

# UCX's default takes CMA between processes of a node; without it the owner takes part in a write.
DEFAULT = None
FENCED = "tcp,self"


@pytest.fixture(autouse=True)
def _ucx_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UCX_TLS", "UCX_NET_DEVICES", "UCX_LOG_LEVEL", "NIXL_LOG_LEVEL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@contextlib.contextmanager
def processes(ucx_tls: str | None) -> Iterator[tuple[Child, Child]]:
    """(owner of memory, writer that has written to its first block)."""
    settings = {"ucx_tls": ucx_tls, "checksum": "off"}
    with child(owner_main, settings) as owner:
        metadata, address = owner.answer()
        with child(writer_main, settings, metadata, address) as writer:
            owner.ask("know", writer.answer())
            assert writer.ask(1) == (None, True)
            owner.ask("zero")
            yield owner, writer


@pytest.mark.parametrize("ucx_tls", [DEFAULT, FENCED])
def test_deregistering_memory_and_removing_the_peer_stop_no_write(ucx_tls: str | None) -> None:
    with processes(ucx_tls) as (owner, writer):
        owner.ask("deregister")
        owner.ask("remove_peer")
        assert writer.ask(NUM_BLOCKS) == (None, True)
        assert owner.ask("num_written") == NUM_BLOCKS


@pytest.mark.parametrize("ucx_tls", [DEFAULT, FENCED])
def test_recreating_the_agent_ends_a_write_only_where_the_owner_takes_part(
    ucx_tls: str | None,
) -> None:
    with processes(ucx_tls) as (owner, writer):
        freeze_in_a_write(owner, writer)
        counts_as_proof = owner.ask("recreate")
        owner.ask("zero")
        writer.thaw()
        error, quiesced = writer.answer(60)
        # The writer itself cannot tell whether its bytes have landed.
        assert error is not None and not quiesced
        landed_late = owner.ask("num_written") > 0
        assert landed_late is (ucx_tls is DEFAULT)
        assert counts_as_proof is not landed_late


def freeze_in_a_write(owner: Child, writer: Child) -> None:
    """Stop the writer in the middle of one of the pieces that it writes at a time."""
    piece = PIECE_BYTES // BLOCK_BYTES
    for attempt in range(400):
        owner.ask("zero")
        writer.send(NUM_BLOCKS)
        time.sleep(attempt % 40 / 1000)
        writer.freeze()
        landed = owner.ask("num_written")
        if piece // 8 <= landed % piece <= piece * 3 // 4 and landed == owner.ask("num_written"):
            return
        writer.thaw()
        writer.answer()
    raise AssertionError("no write was caught half way")
