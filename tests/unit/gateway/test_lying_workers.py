"""Workers whose load reports are not true: what can be seen is repaired, the rest costs little."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.gateway.workers.load_check import repair
from baton.v1 import common_pb2, session_pb2, worker_pb2
from fakes.token_plane import TokenPlane
from fakes.worker import FakeWorker, tokens_of

CAPACITY = common_pb2.Capacity(num_blocks=100, max_sequences=8)


class Liar(FakeWorker):
    """Publishes a report of the test's making instead of its own."""

    def __init__(self, worker_id: str, **claims: Any) -> None:
        super().__init__(worker_id)
        self.claims = claims

    def _publish(self, rows: Any, events: Any) -> None:
        self._steps += 1
        # One that says the same again is not sent.
        news = {"promotions": self._steps}
        load = session_pb2.Load(sequence_number=self._steps, **news, **self.claims)
        self.sessions.publish(rows, events, load, len(self.submits))


@given(
    prefill_tokens_per_s=st.floats(),
    step_s=st.floats(),
    free_blocks=st.integers(0, 2**32 - 1),
    bytes_per_s=st.floats(),
)
def test_what_is_left_could_be_true(bytes_per_s: float, **claims: Any) -> None:
    load = session_pb2.Load(**claims, links=[worker_pb2.PeerLink(bytes_per_s=bytes_per_s)])
    before = session_pb2.Load.FromString(load.SerializeToString())
    wrong = repair(load, CAPACITY)
    for value in (load.prefill_tokens_per_s, load.step_s, load.links[0].bytes_per_s):
        assert math.isfinite(value) and value >= 0
    assert load.free_blocks <= CAPACITY.num_blocks
    assert bool(wrong) == (load.SerializeToString() != before.SerializeToString())
    assert repair(load, CAPACITY) == []


def test_true_reports_are_left_alone() -> None:
    load = session_pb2.Load(
        prefill_tokens_per_s=1e6, step_s=0.01, free_blocks=100, cached_blocks=20
    )
    assert repair(load, CAPACITY) == []


@pytest.mark.parametrize(
    "claims",
    [
        {"prefill_tokens_per_s": math.nan, "step_s": math.nan},
        {"prefill_tokens_per_s": -math.inf, "step_s": math.inf},
        {"prefill_tokens_per_s": 1e300, "step_s": 5e-324},
        {"free_blocks": 2**32 - 1, "cached_blocks": 2**32 - 1},
        {"queued_prefill_tokens": 2**64 - 1, "num_running": 2**32 - 1},
    ],
)
async def test_absurd_numbers_of_one_worker_harm_no_request(
    claims: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "baton.gateway.workers.fleet")
    liar = Liar("liar", **{"queue_room": 1000, "free_blocks": 1000, **claims})
    async with TokenPlane(liar, FakeWorker("honest")) as plane:
        sinks = [plane.submit(seed=seed)[0] for seed in range(40)]
        for seed, sink in enumerate(sinks):
            assert await sink.end() is None
            assert sink.tokens[0] == tokens_of(seed, 0, 8)
        plane.assert_nothing_left()
    told = [record for record in caplog.records if "worker_load_repaired" in record.getMessage()]
    assert len(told) <= 1, "once is enough"


async def test_a_worker_that_says_it_is_idle_gets_no_more_than_its_share() -> None:
    liar = Liar("liar", queue_room=2**32 - 1, free_blocks=100_000)
    honest = FakeWorker("honest")
    async with TokenPlane(liar, honest) as plane:
        # Nothing ends, so what is placed there is all that speaks against the liar.
        liar.mute = honest.mute = True
        reports: list[int] = []
        take = plane.pool.report

        def report(row: int, load: session_pb2.Load) -> None:
            reports.append(row)
            take(row, load)

        plane.pool.report = report  # type: ignore[method-assign]
        for seed in range(200):
            plane.submit(seed=seed)
            if seed % 10 == 0:
                before = len(reports)
                await plane.until(lambda n=before: len(reports) >= n + 4)
        await plane.until(lambda: len(liar.submits) + len(honest.submits) == 200)
        assert len(liar.submits) <= 120
