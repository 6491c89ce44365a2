"""Tokens that nobody waits for: when a worker's session sends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from baton.core.request import FinishReason
from baton.engine.outputs import TokenRow
from baton.v1 import session_pb2
from baton.worker import gateway_session
from fakes.gateways_end import Bench, GatewaysEnd, close

SlotEvent = session_pb2.SlotEvent
INTERVAL = 1000
# No test waits for so long.
NEVER_S = 600.0


@pytest.fixture(autouse=True)
def no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_session, "HELD_WAIT_S", NEVER_S)


class Gathering:
    """A session with two submissions: 1 gathers its tokens, 2 does not."""

    def __init__(self, bench: Bench, stream: GatewaysEnd) -> None:
        self.bench = bench
        self.stream = stream

    def publish(self, *rows: TokenRow, **load: Any) -> None:
        news = session_pb2.Load(**load) if load else None
        self.bench.sessions.publish(rows, [], news)

    def event(self, kind: SlotEvent.Kind, *rows: TokenRow) -> None:
        self.bench.sessions.publish(rows, [(("s", 1), SlotEvent(kind=kind))], None)

    async def quiet(self) -> None:
        """Let the writer send what it has."""
        for _ in range(5):
            await asyncio.sleep(0)

    @property
    def positions(self) -> list[int]:
        """Of slot 1's tokens."""
        return [position for slot, _, position, _ in self.stream.rows if slot == 1]


@pytest.fixture
async def gathering() -> AsyncIterator[Gathering]:
    bench = Bench()
    stream = await bench.open()
    submit = session_pb2.Submit(slot=1, stream_interval=INTERVAL, choices=[session_pb2.Choice()])
    stream.say(submits=[submit, session_pb2.Submit(slot=2)])
    await bench.until(lambda: len(bench.submitted) == 2)
    it = Gathering(bench, stream)
    it.publish(row(0))
    await stream.until(lambda: it.positions == [0])
    it.publish(row(1), row(2))
    await it.quiet()
    assert it.positions == [0]
    yield it
    await close(bench, it.stream)


def row(position: int, slot: int = 1, finish: FinishReason | None = None) -> TokenRow:
    return TokenRow(("s", slot), 0, position, 100 + position, finish)


async def test_others_tokens_do_not_take_them_along(gathering: Gathering) -> None:
    gathering.publish(row(0, slot=2))
    await gathering.stream.until(lambda: (2, 0, 0, 100) in gathering.stream.rows)
    assert gathering.positions == [0]


async def test_last_token_brings_all(gathering: Gathering) -> None:
    gathering.publish(row(3, finish=FinishReason.LENGTH))
    await gathering.stream.until(lambda: len(gathering.positions) == 4)
    assert gathering.positions == [0, 1, 2, 3]
    assert len(gathering.stream.frames) == 2


@pytest.mark.parametrize(
    "kind", [SlotEvent.KIND_FIRST_STEP, SlotEvent.KIND_FAILED, SlotEvent.KIND_MOVE_FAILED]
)
async def test_an_event_comes_behind_the_tokens_before_it(
    gathering: Gathering, kind: SlotEvent.Kind
) -> None:
    gathering.event(kind, row(3))
    await gathering.stream.until(lambda: len(gathering.positions) == 4)
    assert [e.kind for e in gathering.stream.frames[-1].events] == [kind]


@pytest.mark.parametrize("load", [{"draining": 1}, {"short_of_blocks": 1}])
async def test_nothing_is_held_where_sequences_may_be_moved(
    gathering: Gathering, load: dict[str, int]
) -> None:
    gathering.publish(**load)
    await gathering.stream.until(lambda: gathering.positions == [0, 1, 2])
    gathering.publish(row(3), sequence_number=2, **load)
    await gathering.stream.until(lambda: gathering.positions == [0, 1, 2, 3])


async def test_nothing_is_held_for_long(
    gathering: Gathering, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathering.publish(row(3, finish=FinishReason.LENGTH))
    monkeypatch.setattr(gateway_session, "HELD_WAIT_S", 0.01)
    gathering.stream.say(submits=[session_pb2.Submit(slot=3, stream_interval=INTERVAL)])
    await gathering.bench.until(lambda: ("s", 3) in gathering.bench.submitted)
    # The timer of the first rows is still running.
    gathering.bench.sessions.publish([], [], session_pb2.Load(draining=True))
    gathering.bench.sessions.publish([row(5, slot=3), row(6, slot=3)], [], None)
    await gathering.stream.until(lambda: len(gathering.stream.rows) == 6)
    assert gathering.stream.rows[-2:] == [(3, 0, 5, 105), (3, 0, 6, 106)]


async def test_a_stream_that_resumes_brings_them(gathering: Gathering) -> None:
    await gathering.stream.lose()
    gathering.publish(row(3))
    point = session_pb2.ResumePoint(slot=1, next_position=1)
    gathering.stream = GatewaysEnd(gathering.bench.sessions, resume=[point])
    await gathering.stream.until(lambda: gathering.positions == [1, 2, 3])


def loads(gathering: Gathering) -> list[int]:
    frames = gathering.stream.frames
    return [f.load.sequence_number for f in frames if f.HasField("load")]


async def test_gradual_load_waits_longer_than_other_news(
    gathering: Gathering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_session, "COMPANY_WAIT_S", 0.0)
    gathering.publish(sequence_number=1, num_running=1, free_blocks=9)
    await gathering.stream.until(lambda: loads(gathering) == [1])
    gathering.publish(sequence_number=2, num_running=1, free_blocks=8)
    await gathering.quiet()
    assert loads(gathering) == [1]
    gathering.publish(sequence_number=3, num_running=2, free_blocks=7)
    await gathering.stream.until(lambda: loads(gathering) == [1, 3])
    monkeypatch.setattr(gateway_session, "HELD_WAIT_S", 0.0)
    monkeypatch.setattr(gateway_session, "GRADUAL_WAIT_S", 0.0)
    gathering.publish(sequence_number=4, num_running=2, free_blocks=6)
    await gathering.stream.until(lambda: loads(gathering) == [1, 3, 4])


async def test_gradual_load_goes_with_tokens_once_it_is_old(
    gathering: Gathering, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathering.publish(sequence_number=1, free_blocks=9)
    await gathering.stream.until(lambda: loads(gathering) == [1])
    monkeypatch.setattr(gateway_session, "GRADUAL_WAIT_S", NEVER_S)
    for position in range(5):
        gathering.publish(
            row(position, slot=2), sequence_number=2 + position, free_blocks=8 - position
        )
        await gathering.stream.until(lambda p=position: (2, 0, p, 100 + p) in gathering.stream.rows)
    assert loads(gathering) == [1]
    monkeypatch.setattr(gateway_session, "GRADUAL_WAIT_S", 0.0)
    gathering.publish(row(5, slot=2))
    await gathering.stream.until(lambda: loads(gathering) == [1, 6])


async def test_what_is_cancelled_is_not_sent(gathering: Gathering) -> None:
    gathering.stream.say(cancels=[session_pb2.Cancel(slot=1)])
    await gathering.bench.until(lambda: gathering.bench.cancelled)
    gathering.publish(draining=1)
    await gathering.stream.until(lambda: loads(gathering))
    assert gathering.positions == [0]


async def test_many_answers_that_began_together_do_not_come_all_at_once(
    gathering: Gathering,
) -> None:
    """Thousands of rows would hold the loops of worker and gateway from everything else."""
    slots = range(3, 203)
    gathering.stream.say(
        submits=[session_pb2.Submit(slot=slot, stream_interval=INTERVAL) for slot in slots]
    )
    await gathering.bench.until(lambda: len(gathering.bench.submitted) == 202)
    for position in range(25):
        gathering.publish(*(row(position, slot) for slot in slots))
        await gathering.quiet()
    gathering.publish(draining=1)
    await gathering.stream.until(lambda: len(gathering.stream.rows) == 25 * 200 + 3)
    frames = gathering.stream.frames
    assert max(len(frame.slot) for frame in frames) <= gateway_session.MAX_HELD_ROWS + 200
    assert len(frames) <= 3 + 25 * 200 / (gateway_session.MAX_HELD_ROWS - 200)
