"""KV that is copied part by part while the prompt is computed gives the tokens of one engine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from baton.core.handoff import OfferDue, ReservedGroup
from baton.core.request import Request, SamplingParams
from baton.core.settings import EngineSettings
from baton.engine.engine import Engine
from baton.engine.outputs import StepOutput
from fakes.tiny_models import make_runner, random_prompt, save_model

KEY = ("s", 0)
SETTINGS = EngineSettings(block_size=4, kv_blocks=64, max_batch_tokens=24, num_threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_model(path, "llama")
    return path


def wanted(length: int) -> Request:
    sampling = SamplingParams(max_tokens=12, temperature=0.8, ignore_eos=True)
    prompt = tuple(random_prompt(length, seed=length))
    return Request("r", "model", prompt, sampling, 5, math.inf, {0: ()})


def generate(engine: Engine) -> list[int]:
    tokens = []
    while engine.has_work:
        out = engine.step()
        assert not out.failures
        tokens += [row.token for row in out.rows]
    return tokens


class OneSided:
    """Copies what a source announces, at once and nothing else, into a target's blocks."""

    def __init__(self, source: Any, target: Any, target_engine: Engine, request: Request) -> None:
        self.views = [runner.arenas()[0].view for runner in (source, target)]
        self.layer_bytes = source.groups[0].layer_bytes
        self.num_layers = source.groups[0].num_layers
        self.engine, self.request = target_engine, request
        self.reserved: ReservedGroup | None = None
        self.parts: set[tuple[int, int]] = set()

    def tell(self, output: StepOutput) -> None:
        for due in output.offers:
            self.offer(due)
        for ready in output.ready:
            assert self.reserved is not None
            self.parts.add((ready.part, ready.num_parts))
            begin, end = (
                self.num_layers * p // ready.num_parts * self.layer_bytes
                for p in (ready.part, ready.part + 1)
            )
            first = ready.first_index[0]
            ids = list(ready.block_ids[0])
            to = list(self.reserved.block_ids[first : first + len(ids)])
            self.views[1][to, begin:end] = self.views[0][ids, begin:end]

    def offer(self, due: OfferDue) -> None:
        answer = self.engine.reserve(KEY, self.request, due.num_tokens, due.hashes, due.num_blocks)
        assert answer is not None
        (self.reserved,) = answer


@pytest.mark.parametrize("layer_groups", [1, 2, 4])
@pytest.mark.parametrize("length", [3, 24, 61, 96])
def test_tokens_do_not_depend_on_layer_groups(folder: Path, layer_groups: int, length: int) -> None:
    request = wanted(length)
    alone = Engine(SETTINGS, make_runner(folder, kv_blocks=64), "digest")
    alone.add(KEY, request)
    expected = generate(alone)
    runners = [make_runner(folder, kv_blocks=64) for _ in range(2)]
    source = Engine(SETTINGS, runners[0], "digest", layer_groups=layer_groups)
    target = Engine(SETTINGS, runners[1], "digest")
    link = OneSided(*runners, target, request)
    source.add(KEY, request, handoff=True)
    first: list[int] = []
    while source.has_work:
        out = source.step(link.tell)
        link.tell(out)
        first += [row.token for row in out.rows]
    num_parts = min(layer_groups, runners[0].groups[0].num_layers)
    assert link.parts == {(p, num_parts) for p in range(num_parts)}
    target.adopt(KEY, {0: tuple(first)})
    assert first + generate(target) == expected
