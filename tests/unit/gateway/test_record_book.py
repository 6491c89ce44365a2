"""What a gateway remembers of calls: bounded, found by any id, slow and failed ones longer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.core.errors import (
    BatonError,
    DeadlineExceededError,
    OverloadedError,
    UnavailableError,
)
from baton.core.request import FinishReason, Request, SamplingParams
from baton.core.settings import RecordSettings
from baton.gateway.answer.base import Answer, OpenAnswers
from baton.gateway.answer.call_metrics import CallMetrics, ModelMetrics
from baton.gateway.answer.output import TextParams
from baton.gateway.recent import RecentTimes
from baton.gateway.records import explain
from baton.gateway.records.call_record import CallRecord
from baton.gateway.records.record_book import RecordBook
from baton.gateway.records.record_writer import RecordWriter, read_record
from baton.telemetry.metrics import Metrics
from fakes.gateway import make_context, text_tokens
from fakes.generator import FakeGenerator
from fakes.memory_store import MemoryStore
from fakes.until import until

HELLO = text_tokens("hello")[0]
METRICS = Metrics()
SERIES = ModelMetrics(METRICS, "tiny", "chat", RecentTimes())


class Plain(Answer):
    """Shows its tokens to nobody."""

    def on_token(self, output, token, logprobs, finish) -> None:  # type: ignore[no-untyped-def]
        self.metrics.token(output)
        output.push(token, finish)


def request(name: str) -> Request:
    return Request(name, "tiny", (1, 2, 3), SamplingParams(max_tokens=8), 1, time.monotonic() + 60)


def answer(names: Sequence[str], request_id: str = "", waited_s: float = 0.0) -> Plain:
    model = make_context(FakeGenerator()).models["tiny"]
    metrics = CallMetrics(SERIES, time.monotonic() - waited_s)
    made = Plain(model, [request(name) for name in names], TextParams(), metrics)
    made.request_id = request_id
    return made


def ended(
    name: str, request_id: str = "", error: BatonError | None = None, waited_s: float = 0.0
) -> Plain:
    """A call that is over."""
    made = answer([name], request_id, waited_s)
    generator = FakeGenerator()
    made.submit(generator)
    if error is None:
        generator.tickets[0].feed(HELLO, FinishReason.LENGTH)
    else:
        made.fail(error)
    return made


def book(keep: int = 10) -> RecordBook:
    return RecordBook(RecordSettings(keep=keep), OpenAnswers())


def test_a_call_is_found_by_the_clients_id_and_by_its_own() -> None:
    kept = book()
    kept.ended(ended("chatcmpl-1", "mine"))
    for name in ("chatcmpl-1", "mine"):
        found = kept.find(name)
        assert found is not None and found.call_id == "chatcmpl-1" and found.request_id == "mine"
    assert kept.find("other") is None


def test_each_prompt_of_a_batch_finds_its_call() -> None:
    kept, generator = book(), FakeGenerator()
    batch = answer(["cmpl-1-0", "cmpl-1-1"], "mine")
    batch.submit(generator)
    for ticket in generator.tickets:
        ticket.feed(HELLO, FinishReason.LENGTH)
    kept.ended(batch)
    for name in ("cmpl-1", "mine", "cmpl-1-0", "cmpl-1-1"):
        found = kept.find(name)
        assert found is not None and len(found.prompts) == 2


def test_the_last_call_has_an_id_that_was_used_twice() -> None:
    kept = book(keep=2)
    kept.ended(ended("a", "same"))
    kept.ended(ended("b", "same"))
    found = kept.find("same")
    assert found is not None and found.call_id == "b"
    # The first one goes, and leaves the second's name alone.
    kept.ended(ended("c"))
    assert kept.find("a") is None
    found = kept.find("same")
    assert found is not None and found.call_id == "b"


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (None, False),
        (DeadlineExceededError("late"), True),
        (UnavailableError("stopping"), True),
        (BatonError("a bug"), True),
        # Refusals are no failures of the service.
        (OverloadedError("full"), False),
    ],
)
def test_failed_is_what_the_service_is_to_blame_for(error: BatonError | None, failed: bool) -> None:
    kept = book()
    kept.ended(ended("a", error=error))
    found = kept.find("a")
    assert found is not None and found.is_failed == failed
    assert len(kept.newest(10, slow=False, failed=True)) == failed


def test_slow_is_a_late_first_token() -> None:
    kept = book()
    kept.ended(ended("quick"))
    kept.ended(ended("slow", waited_s=6.0))
    assert [one.call_id for one in kept.newest(10, slow=True, failed=False)] == ["slow"]
    assert [one.call_id for one in kept.newest(10, slow=False, failed=False)] == ["slow", "quick"]


def test_an_open_call_is_explained_too() -> None:
    answers = OpenAnswers()
    kept, generator = RecordBook(RecordSettings(), answers), FakeGenerator()
    open_one = answer(["chatcmpl-1"], "mine")
    answers.add(open_one)
    open_one.submit(generator)
    found = kept.find("mine")
    assert found is not None and found.is_open
    assert explain.document(found)["state"] == "open"


def test_nothing_of_the_prompt_or_the_answer_is_kept() -> None:
    kept, generator = book(), FakeGenerator()
    secret = 11111
    made = answer(["a"])
    made.sinks[0].request = Request(
        "a", "tiny", (secret,) * 5, SamplingParams(max_tokens=8), 1, time.monotonic() + 60
    )
    made.submit(generator)
    for _ in range(5):
        generator.tickets[0].feed(HELLO)
    generator.tickets[0].feed(HELLO, FinishReason.LENGTH)
    kept.ended(made)
    found = kept.find("a")
    assert found is not None
    text = orjson.dumps(explain.document(found)).decode()
    assert "hello" not in text and str(secret) not in text
    assert found.prompts[0].num_tokens == 6


@settings(max_examples=60, deadline=None)
@given(
    keep=st.integers(1, 4),
    calls=st.lists(
        st.tuples(st.sampled_from(["", "x", "y", "z"]), st.booleans()), min_size=1, max_size=20
    ),
)
def test_what_is_kept_is_bounded_and_nothing_of_the_rest_is_left(
    keep: int, calls: list[tuple[str, bool]]
) -> None:
    kept = book(keep)
    for index, (request_id, fails) in enumerate(calls):
        kept.ended(ended(f"c{index}", request_id, BatonError("bug") if fails else None))
    names = [f"c{index}" for index in range(len(calls))]
    failed = [name for name, (_, fails) in zip(names, calls, strict=True) if fails]
    wanted = {*names[-keep:], *failed[-keep:]}
    assert {name for name in names if kept.find(name) is not None} == wanted
    assert len(kept) == len(wanted)
    for request_id in {request_id for request_id, _ in calls if request_id}:
        last = max(i for i, (other, _) in enumerate(calls) if other == request_id)
        found = kept.find(request_id)
        assert (found.call_id if found else None) in (f"c{last}", None)
        assert (found is not None) == (f"c{last}" in wanted)


# --- the store ---


def record(name: str, request_id: str = "", *, fails: bool = False) -> CallRecord:
    made = ended(name, request_id, BatonError("bug") if fails else None)
    return CallRecord(made, time.monotonic())


class Tried(MemoryStore):
    """Counts the attempts to write."""

    num_tries = 0

    async def put_documents(self, documents: Mapping[str, bytes], ttl_s: float) -> None:
        self.num_tries += 1
        await super().put_documents(documents, ttl_s)


def writer(store: MemoryStore, rate: int = 50) -> RecordWriter:
    made = RecordWriter(store, RecordSettings(max_stored_per_s=rate), Metrics(), flush_s=0.01)
    made.start()
    return made


async def written(store: MemoryStore, name: str) -> None:
    await until(lambda: f"requests/{name}" in store.documents)


async def test_other_gateways_find_a_written_record_by_both_ids() -> None:
    store = MemoryStore()
    mine = writer(store)
    mine.offer(record("chatcmpl-1", "mine"))
    await written(store, "chatcmpl-1")
    await mine.close()
    for name in ("chatcmpl-1", "mine", "chatcmpl-1-0"):
        found = await read_record(store, name)
        assert found is not None and found["id"] == "chatcmpl-1", name
    assert await read_record(store, "nobodys") is None


async def test_a_clients_id_cannot_hide_the_record_of_another_call() -> None:
    store = MemoryStore()
    mine = writer(store)
    mine.offer(record("chatcmpl-1"))
    mine.offer(record("chatcmpl-2", "chatcmpl-1"))
    await written(store, "chatcmpl-2")
    await mine.close()
    found = await read_record(store, "chatcmpl-1")
    assert found is not None and found["id"] == "chatcmpl-1"


async def test_too_many_are_dropped_and_counted_failed_ones_last() -> None:
    store, metrics = MemoryStore(), Metrics()
    # One in a flush, four wait at most.
    mine = RecordWriter(store, RecordSettings(max_stored_per_s=1), metrics, flush_s=0.01)
    mine.start()
    for index in range(10):
        mine.offer(record(f"good-{index}"))
    for index in range(3):
        bad = record(f"bad-{index}", fails=True)
        mine.offer(bad)
    await mine.close()
    written = [key for key in store.documents if key.startswith("requests/")]
    names = {key.removeprefix("requests/") for key in written}
    assert {name for name in names if name.startswith("bad")} == {"bad-0", "bad-1", "bad-2"}
    assert len(names) == 4
    assert "baton_dropped_records_total 9.0" in metrics.render().decode()


async def test_a_store_that_is_away_costs_nothing_but_time() -> None:
    store = Tried()
    store.is_down = True
    mine = writer(store)
    mine.offer(record("a"))
    await until(lambda: store.num_tries > 1)
    assert not store.documents
    store.is_down = False
    await written(store, "a")
    await mine.close()


async def test_a_gateway_closes_without_the_store() -> None:
    store, metrics = Tried(), Metrics()
    store.is_down = True
    mine = RecordWriter(store, RecordSettings(), metrics, flush_s=0.01)
    mine.start()
    mine.offer(record("a"))
    await mine.close()
    assert "baton_dropped_records_total 1.0" in metrics.render().decode()


async def test_nothing_is_written_where_that_is_off() -> None:
    store = MemoryStore()
    mine = writer(store, rate=0)
    mine.offer(record("a"))
    await mine.close()
    assert not store.documents
