"""A tiny pool with real memory and files below it gives the tokens of a pool that holds all."""

from __future__ import annotations

import math
import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from baton.core.request import Request, SamplingParams
from baton.core.settings import EngineSettings, TierSettings
from baton.engine.engine import Engine
from baton.worker.tiers import build_tiers
from fakes.tiny_models import make_runner, random_prompt, save_model

DIGEST = "ab" * 16
BLOCK = 4
LENGTHS = [60, 47, 33, 60, 21]
WAIT_S = 20.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("model")
    save_model(folder, "llama")
    return folder


def requests() -> list[Request]:
    return [
        Request(
            "request",
            "model",
            tuple(random_prompt(length, seed=i)),
            SamplingParams(max_tokens=8, temperature=float(i % 2), ignore_eos=True),
            11 + i,
            math.inf,
            {0: ()},
        )
        for i, length in enumerate(LENGTHS)
    ]


class Served:
    """An engine, its tiers and what was posted to its thread, which is this one."""

    def __init__(self, folder: Path, kv_blocks: int, tiers: TierSettings) -> None:
        settings = EngineSettings(
            block_size=BLOCK, kv_blocks=kv_blocks, max_batch_tokens=64, num_threads=1
        )
        runner = make_runner(folder, kv_blocks=kv_blocks)
        self.engine = Engine(settings, runner, DIGEST)
        self.inbox: queue.Queue[Callable[[], None]] = queue.Queue()
        self.mover = build_tiers(
            tiers, self.engine, runner.groups, DIGEST, runner.arenas(), self.inbox.put
        )
        self.cached: dict[Any, int] = {}

    def generate(self, wanted: Sequence[Request]) -> list[list[int]]:
        """Tokens of each, one after another."""
        return [self.one(request) for request in wanted]

    def one(self, request: Request) -> list[int]:
        key = ("session", len(self.cached))
        self.engine.add(key, request)
        tokens: list[int] = []
        finished = False
        while not finished:
            if not self.engine.has_work:
                self.inbox.get(timeout=WAIT_S)()
            out = self.engine.step()
            assert not out.failures
            tokens += [row.token for row in out.rows]
            finished = any(row.finish for row in out.rows)
            for scheduled in out.scheduled:
                self.cached[key] = scheduled.cached_tokens
        self.settle()
        return tokens

    def settle(self) -> None:
        """Until all that fell idle is where it is to go."""
        while self.engine.has_work or self.is_copying:
            if self.engine.has_work:
                self.engine.step()
            else:
                self.inbox.get(timeout=WAIT_S)()
        self.engine.check_integrity()

    @property
    def is_copying(self) -> bool:
        tiering = self.engine._tiering
        return tiering is not None and bool(tiering.owned(0) or any(tiering._writing))


@contextmanager
def served(folder: Path, kv_blocks: int = 22, **tiers: Any) -> Iterator[Served]:
    server = Served(folder, kv_blocks, TierSettings(promote_wait_s=WAIT_S, max_copies=4, **tiers))
    try:
        yield server
    finally:
        if server.mover is not None:
            server.mover.close()


@pytest.mark.parametrize("tier", ["host", "disk", "both"])
def test_tokens_are_equal_and_prefixes_come_from_below(
    folder: Path, tmp_path: Path, tier: str
) -> None:
    sizes: dict[str, Any] = {}
    if tier != "disk":
        # Room for some of the blocks, or for all.
        sizes["host_bytes"] = 2**20 if tier == "host" else 40 * 3072
    if tier != "host":
        sizes |= {"disk_bytes": 2**24, "disk_path": tmp_path}
    wanted = requests()
    with served(folder, kv_blocks=400) as roomy:
        expected = roomy.generate(wanted)
    with served(folder, **sizes) as server:
        assert server.generate(wanted) == expected
        again = server.generate(wanted)
        cached = list(server.cached.values())[len(wanted) :]
        loads = {load.tier.name: load for load in server.engine.load().tiers}
    assert again == expected
    assert cached == [(length - 1) // BLOCK * BLOCK for length in LENGTHS]
    assert all(load.failures == 0 for load in loads.values())
    assert loads["HOST" if tier == "host" else "DISK"].hits > 0


def test_a_restarted_engine_serves_what_the_disk_kept(folder: Path, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"disk_bytes": 2**24, "disk_path": tmp_path}
    wanted = requests()
    with served(folder, **sizes) as first:
        expected = first.generate(wanted)
    with served(folder, **sizes) as second:
        tiering = second.engine._tiering
        while tiering is not None and not tiering._disk_known:
            second.inbox.get(timeout=WAIT_S)()
        assert second.generate(wanted) == expected
        assert list(second.cached.values()) == [(n - 1) // BLOCK * BLOCK for n in LENGTHS]
