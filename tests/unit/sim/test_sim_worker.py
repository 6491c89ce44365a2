"""A simulated worker: its times, and that no block is lost."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.engine.outputs import OfferDue
from baton.sim.clock import EventLoop, Phase
from baton.sim.report import Served
from baton.sim.sequence import SimSequence
from baton.sim.timing import MOCKER
from baton.sim.worker import SimWorker, WorkerSpec
from baton.sim.workload import BLOCK_SIZE, TraceRequest


class QuietHost:
    """Hears nothing but what ended."""

    def __init__(self) -> None:
        self.finished: list[Served] = []

    def on_scheduled(self, worker: SimWorker, served: Served) -> None: ...
    def on_offer(self, worker: SimWorker, seq: SimSequence, offer: OfferDue) -> None: ...
    def on_computed(self, worker: SimWorker, seq: SimSequence, step_s: float) -> None: ...
    def on_first_token(self, worker: SimWorker, served: Served) -> None: ...

    def on_finished(self, worker: SimWorker, served: Served) -> None:
        self.finished.append(served)

    def on_step(self, worker: SimWorker) -> None:
        worker.blocks.take_changes()


class One:
    """One worker on its own."""

    def __init__(self, *, num_blocks: int = 2048) -> None:
        self.loop = EventLoop()
        self.host = QuietHost()
        spec = WorkerSpec(MOCKER, num_blocks)
        self.worker = SimWorker(0, spec, self.loop, self.host, prefills_only=False)
        self.num_sent = 0

    def send(self, at: float, num_tokens: int, num_output: int, first_block: int = 0) -> Served:
        ids = tuple(range(first_block, first_block - (-num_tokens // BLOCK_SIZE)))
        request = TraceRequest(self.num_sent, at, num_tokens, num_output, ids)
        self.num_sent += 1
        served = Served(request)
        submit = lambda: self.worker.submit(served, request.hashes)  # noqa: E731
        self.loop.at(at, Phase.ARRIVE, submit)
        return served

    def check(self) -> None:
        """Nothing runs any more: each block is free, or idle in the cache."""
        pool = self.worker.blocks.pools[0]
        pool.check(Counter(), [])
        assert pool.num_free == pool.size
        assert not self.worker.scheduler.num_slots and not self.worker.scheduler.num_running


def test_lone_request() -> None:
    one = One()
    served = one.send(1.0, 9000, 3)
    one.loop.run()
    # Two chunks; 18 of 2048 blocks are in use by all three passes that sample.
    first = MOCKER.prefill_s(8192) + MOCKER.prefill_s(808) + MOCKER.decode_s(18 / 2048)
    assert served.ttft_s == pytest.approx(first)
    assert served.tpot_s == pytest.approx(MOCKER.decode_s(18 / 2048))
    assert served.cached_tokens == 0
    one.check()


def test_prefix_is_reused_but_for_one_token() -> None:
    one = One()
    one.send(0.0, 2048, 2)
    served = one.send(5.0, 2048, 2)
    one.loop.run()
    assert served.cached_tokens == 3 * BLOCK_SIZE


def test_arrival_waits_for_the_end_of_the_decode_step_it_falls_into() -> None:
    one = One()
    one.send(0.0, 512, 400)
    step = MOCKER.decode_s(2 / 2048)
    first = MOCKER.prefill_s(512) + MOCKER.decode_s(1 / 2048)
    served = one.send(first + 10.5 * step, 100, 2, first_block=50)
    one.loop.run()
    assert served.scheduled_at == pytest.approx(first + 11 * step)
    one.check()


def test_long_decode_takes_as_long_as_its_steps() -> None:
    one = One()
    served = one.send(0.0, 1, 1200)
    one.loop.run()
    # Token 2 is computed in block 0, ..., token 512 too; 1200 tokens need three blocks.
    steps = [MOCKER.decode_s(-(-n // BLOCK_SIZE) / 2048) for n in range(2, 1201)]
    assert served.last_token_at - served.first_token_at == pytest.approx(sum(steps))


REQUESTS = st.lists(
    st.tuples(
        st.floats(0, 5), st.integers(1, 6000), st.integers(1, 900), st.sampled_from((0, 0, 20, 40))
    ),
    max_size=12,
)


@settings(deadline=None)
@given(REQUESTS)
def test_blocks_are_conserved_and_everybody_is_served(
    requests: list[tuple[float, int, int, int]],
) -> None:
    # 16 blocks: two such prompts do not fit side by side, so sequences are preempted.
    one = One(num_blocks=16)
    sent = [one.send(*each) for each in requests]
    one.loop.run()
    one.check()
    assert sorted(s.request.number for s in one.host.finished) == list(range(len(sent)))
    for served in sent:
        assert served.request.at <= served.scheduled_at < served.first_token_at
        assert served.first_token_at <= served.last_token_at
