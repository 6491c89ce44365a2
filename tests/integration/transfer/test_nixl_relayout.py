"""Workers whose heads are divided over processes write to each other with NIXL: every byte."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from fakes.nixl_process import Child, child
from fakes.rank_process import NUM_BLOCKS, Address, rank_main
from fakes.ranks import SPEC, divided, logical_block, whole_blocks

LOCAL, REMOTE = [6, 0, 3, 4], [2, 7, 1, 5]


class Ranks:
    """One worker: a process for each of its ranks."""

    def __init__(self, stack: contextlib.ExitStack, num_ranks: int, ucx_tls: str | None) -> None:
        self.held = divided(num_ranks)
        settings = {"ucx_tls": ucx_tls}
        self.processes: list[Child] = [
            stack.enter_context(child(rank_main, held, settings)) for held in self.held
        ]
        self.addresses: list[Address] = [process.answer() for process in self.processes]

    def blocks(self) -> np.ndarray:
        """`[block, layer, head, byte]`, put together from what the ranks hold."""
        raw = [process.ask("blocks") for process in self.processes]
        return np.stack(
            [
                logical_block(list(zip(self.held, [r[i] for r in raw], strict=True)))
                for i in range(NUM_BLOCKS)
            ]
        )


@pytest.mark.parametrize("ucx_tls", [None, "tcp,self"], ids=["shm", "tcp"])
@pytest.mark.parametrize(("here", "there"), [(2, 1), (1, 2), (2, 2)])
def test_every_byte_arrives_between_ranks(here: int, there: int, ucx_tls: str | None) -> None:
    with contextlib.ExitStack() as stack:
        source, target = Ranks(stack, here, ucx_tls), Ranks(stack, there, ucx_tls)
        expected = np.zeros_like(target.blocks())
        for round_, num_parts in enumerate((1, 4)):
            contents = whole_blocks(NUM_BLOCKS, seed=round_)
            # The second round writes parts, to other blocks.
            local = np.roll(LOCAL, round_).tolist()
            expected[REMOTE] = contents[local]
            num_bytes = 0
            for rank, address in zip(source.processes, source.addresses, strict=True):
                rank.ask("fill", round_)
                rank.ask("connect", target.addresses)
                results = rank.ask("write", local, REMOTE, num_parts)
                assert all(result.error is None for result in results)
                assert all(result.checksums == ((),) for result in results[:-1])
                num_bytes += sum(result.num_bytes for result in results)
                shares = [
                    process.ask("checksums", REMOTE, address)
                    for process, theirs in zip(target.processes, target.held, strict=True)
                    if theirs.heads[0] < address[2].heads[1]
                    and address[2].heads[0] < theirs.heads[1]
                ]
                found = [sum(numbers) % 2**64 for numbers in zip(*shares, strict=True)]
                assert list(results[-1].checksums[0]) == found
            assert num_bytes == len(LOCAL) * SPEC.block_bytes
            assert np.array_equal(target.blocks(), expected)
