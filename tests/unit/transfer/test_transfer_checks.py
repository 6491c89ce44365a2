"""Checksums, verification and proof of death; and the transport for tests."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.core.errors import HandoffError
from baton.core.kv import Arena
from baton.transfer.base import BlockWrite, PeerShard, WriteResult
from baton.transfer.checksum import (
    block_checksums,
    common_algorithm,
    sum64_numpy,
    sum64_torch,
)
from baton.transfer.inproc import InprocTransport
from baton.transfer.process import ProcessRef, is_dead, node, this_process
from baton.transfer.state import BlockCheck
from baton.transfer.verifier import INLINE_BYTES, Verifier, find_problem
from fakes.transfer import GROUP, fill, make_arena

# --- checksums ---


@settings(max_examples=30)
@given(
    num_bytes=st.sampled_from([8, 64, 13, 4096]),
    position=st.integers(0, 4095),
    change=st.integers(1, 255),
)
def test_both_checksums_see_any_changed_byte(num_bytes: int, position: int, change: int) -> None:
    arena = make_arena(2, num_bytes)
    fill(arena, [0], seed=num_bytes)
    arena.view[1] = arena.view[0]
    arena.view[1, position % num_bytes] ^= change
    for algorithm in ("xxh3", "sum64"):
        same, changed = block_checksums(arena, [0, 1], algorithm)
        assert same != changed


@pytest.mark.parametrize("num_bytes", [8, 13, 1024])
def test_torch_and_numpy_agree_on_the_weighted_sum(num_bytes: int) -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (5, num_bytes), dtype=np.uint8)
    assert sum64_numpy(blocks) == sum64_torch(torch.from_numpy(blocks))


def test_weighted_sum_is_the_formula() -> None:
    words = np.array([[3, -1, 2**62]], dtype=np.int64)
    assert sum64_numpy(words.view(np.uint8)) == [(3 * 1 - 1 * 3 + 2**62 * 5) % 2**64]


def test_swapped_words_change_the_weighted_sum() -> None:
    words = np.array([[3, 4], [4, 3]], dtype=np.int64).view(np.uint8)
    first, second = sum64_numpy(words)
    assert first != second


def test_pairs_agree_on_the_checksum_by_their_memories() -> None:
    host, device = make_arena(1), Arena(0, 0, 1, GROUP.block_bytes, "VRAM", 0, None)
    assert common_algorithm([host], [host]) == "xxh3"
    assert common_algorithm([host], [device]) == common_algorithm([device], [host]) == "sum64"


# --- verification ---


def test_verifier_names_the_block_that_differs() -> None:
    arena = make_arena(4)
    fill(arena, [0, 1, 2], seed=3)
    sums = tuple(block_checksums(arena, [0, 1, 2], "xxh3"))
    check = BlockCheck(0, (0, 1, 2), sums)
    assert find_problem([arena], [check], "xxh3") is None
    arena.view[1, 5] ^= 1
    assert "block 1 of group 0" in (find_problem([arena], [check], "xxh3") or "")
    assert find_problem([arena], [BlockCheck(0, (1,), ())], "xxh3") is None


@pytest.mark.parametrize("block_bytes", [1024, INLINE_BYTES + 8])
def test_big_handoffs_are_checked_off_the_loop(block_bytes: int) -> None:
    arena = make_arena(1, block_bytes)
    posted: queue.Queue[Callable[[], None]] = queue.Queue()
    answers: list[str | None] = []
    verifier = Verifier([arena], posted.put)
    sums = tuple(block_checksums(arena, [0], "xxh3"))
    verifier.check([BlockCheck(0, (0,), sums)], [arena], answers.append)
    assert answers == ([None] if block_bytes <= INLINE_BYTES else [])
    if not answers:
        posted.get(timeout=60)()
    assert answers == [None]
    verifier.close()


def test_check_that_cannot_be_done_is_not_passed() -> None:
    posted: queue.Queue[Callable[[], None]] = queue.Queue()
    answers: list[str | None] = []
    verifier = Verifier([make_arena(1, INLINE_BYTES + 8)], posted.put)
    # There is no block 7.
    verifier.check([BlockCheck(0, (7,), (1,))], [], answers.append)
    posted.get(timeout=60)()
    assert "check itself failed" in (answers[0] or "")
    verifier.close()


# --- proof of death ---


def test_processes_that_live_here_are_not_dead() -> None:
    me = this_process()
    assert me.pid == os.getpid() and me.start > 0 and me.node == node()
    assert not is_dead(me)


def test_ended_process_is_dead_and_so_is_one_whose_pid_was_used_again() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    # Its start is not known to us: only the pid counts.
    ref = ProcessRef(child.pid, 0, node())
    assert not is_dead(ref)
    child.kill()
    child.wait()
    assert child.stdin is not None
    child.stdin.close()
    assert is_dead(ref)
    me = this_process()
    assert is_dead(ProcessRef(me.pid, me.start + 1, me.node))


def test_nothing_is_proven_of_other_nodes() -> None:
    for where in ("", "another-boot/pid:[1]"):
        assert not is_dead(ProcessRef(2**22 + 1, 5, where))
    assert not is_dead(ProcessRef(0, 0, node()))


# --- inproc ---


def test_recreated_agent_does_not_take_what_was_under_way() -> None:
    source, target = InprocTransport("s"), InprocTransport("t")
    here, there = make_arena(2), make_arena(2)
    fill(here, [0, 1], seed=1)
    source.register([here])
    target.register([there])
    source.connect("t", [PeerShard(target.endpoint_metadata(), (there,))])
    source.faults.hold = 1
    results: list[WriteResult] = []
    source.send("t", [BlockWrite(0, (0,), (1,))], results.append, 1.0)
    target.recreate()
    source.release_held()
    assert results[0].error is not None and results[0].quiesced
    assert not there.view.any()
    with pytest.raises(HandoffError, match="not connected"):
        source.send("nobody", [], results.append, 1.0)
