"""The wall clock may step at any time: nothing that waits, expires or measures looks at it."""

from __future__ import annotations

import ast
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import baton
from baton.core.errors import DeadlineExceededError
from fakes.token_plane import TokenPlane
from fakes.worker import FakeWorker, tokens_of

ROOT = Path(baton.__file__).parent
# What decides. The rest of the gateway shows dates to people.
DECIDING = (
    "core/queue_policy",
    "engine",
    "gateway/answer",
    "gateway/http",
    "gateway/queue",
    "gateway/workers",
    "planner",
    "router",
    "store",
    "transfer",
    "worker",
)
DECIDING_MODULES = ("deadlines", "dispatch", "moves", "ownership", "part", "placer", "running")
WALL_CLOCK = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"}


def _sources() -> Iterator[Path]:
    for folder in DECIDING:
        yield from (ROOT / folder).rglob("*.py")
    for module in DECIDING_MODULES:
        yield ROOT / "gateway" / f"{module}.py"


def _wall_clock_calls(source: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if any(name == wall or name.endswith("." + wall) for wall in WALL_CLOCK):
                found.append(f"{source.relative_to(ROOT)}:{node.lineno} {name}")
    return found


def test_what_decides_asks_the_monotonic_clock_only() -> None:
    assert [call for source in _sources() for call in _wall_clock_calls(source)] == []


@pytest.mark.parametrize("step_s", [86400.0, -86400.0, 1e9])
async def test_requests_do_not_notice_a_step(
    monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    real, steps = time.time, itertools.count()
    # Every look at it finds it somewhere else.
    monkeypatch.setattr(time, "time", lambda: real() + step_s * (next(steps) % 2))
    async with TokenPlane(FakeWorker("a")) as plane:
        sinks = [plane.submit(seed=seed, max_tokens=30, deadline_s=30)[0] for seed in range(5)]
        for seed, sink in enumerate(sinks):
            assert await sink.end() is None
            assert sink.tokens[0] == tokens_of(seed, 0, 30)
        plane.workers[0].mute = True
        began = time.monotonic()
        late, _ = plane.submit(deadline_s=0.2)
        assert isinstance(await late.end(), DeadlineExceededError)
        assert 0.2 <= time.monotonic() - began < 60
