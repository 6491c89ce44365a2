"""What crosses the wire is what was sent, and nothing invalid gets through."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from baton.core.errors import InvalidRequestError, UnsupportedError
from baton.core.request import Request, SamplingParams
from baton.v1 import common_pb2, session_pb2
from baton.wire.request import (
    request_from_prefetch,
    request_from_submit,
    submit_from_request,
)

PEER = common_pb2.WorkerRef(worker_id="peer", epoch=9, address="127.0.0.1:1")
tokens = st.lists(st.integers(0, 2**32 - 1), max_size=20).map(tuple)
float32s = st.floats(-100, 100, width=32)


@st.composite
def sampling_params(draw: st.DrawFn) -> SamplingParams:
    max_tokens = draw(st.integers(21, 2**31))
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=draw(st.floats(0, 2)),
        top_p=draw(st.floats(0, 1, exclude_min=True)),
        top_k=draw(st.integers(0, 1000)),
        min_p=draw(st.floats(0, 1)),
        presence_penalty=draw(st.floats(-2, 2)),
        frequency_penalty=draw(st.floats(-2, 2)),
        logit_bias=draw(st.dictionaries(st.integers(0, 50_000), float32s, max_size=4)),
        min_tokens=draw(st.integers(0, max_tokens)),
        stop_token_ids=draw(tokens),
        ignore_eos=draw(st.booleans()),
        logprobs=draw(st.booleans()),
        top_logprobs=draw(st.integers(0, 20)),
    )


@st.composite
def requests(draw: st.DrawFn) -> Request:
    return Request(
        request_id=draw(st.text(min_size=1, max_size=20)),
        model=draw(st.text(max_size=10)),
        prompt=draw(tokens.filter(bool)),
        sampling=draw(sampling_params()),
        seed=draw(st.integers(0, 2**64 - 1)),
        deadline=100.0,
        outputs=draw(st.dictionaries(st.integers(0, 127), tokens, min_size=1, max_size=4)),
        lora_id=draw(st.text(max_size=5)),
        lora_revision=draw(st.text(max_size=5)),
        tenant_salt=draw(st.text(max_size=5)),
        priority=draw(st.integers(-(2**31), 2**31 - 1)),
        traceparent=draw(st.text(max_size=5)),
        cache_ttl_s=draw(st.integers(0, 2**32 - 1)) / 1000,
    )


@given(requests())
def test_request_survives_the_wire(request: Request) -> None:
    submit = submit_from_request(request, attempt=2, now=99.0)
    copy = session_pb2.Submit.FromString(submit.SerializeToString())
    assert request_from_submit(copy, now=99.0) == request
    assert copy.attempt == 2
    assert copy.stream_interval == 1


def a_submit(**changes: Any) -> session_pb2.Submit:
    request = Request("r", "m", (1, 2), SamplingParams(max_tokens=4), 1, 10.0)
    submit = submit_from_request(request, attempt=1, now=0.0)
    for name, value in changes.items():
        if isinstance(value, list):
            del getattr(submit, name)[:]
            getattr(submit, name).extend(value)
        else:
            setattr(submit, name, value)
    return submit


def test_only_time_left_crosses_the_wire() -> None:
    submit = a_submit()
    assert submit.remaining_ms == 10_000
    assert request_from_submit(submit, now=5000.0).deadline == 5010.0


def test_time_that_is_up_crosses_as_the_least_there_is() -> None:
    request = Request("r", "m", (1,), SamplingParams(max_tokens=4), 1, deadline=10.0)
    assert submit_from_request(request, attempt=1, now=11.0).remaining_ms == 1


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"request_id": ""}, "request_id"),
        ({"attempt": 0}, "attempt"),
        ({"prompt": []}, "prompt"),
        ({"choices": []}, "choices"),
        ({"choices": [session_pb2.Choice(index=1), session_pb2.Choice(index=1)]}, "choices"),
        ({"choices": [session_pb2.Choice(index=0, output_so_far=[1, 2, 3, 4])]}, "choices"),
    ],
)
def test_invalid_submission_is_refused_by_name(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        request_from_submit(a_submit(**changes), now=0.0)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_tokens", 0), ("top_p", 0.0), ("temperature", float("nan")), ("min_tokens", 5)],
)
def test_sampling_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    submit = a_submit()
    setattr(submit.sampling, name, value)
    with pytest.raises(InvalidRequestError) as caught:
        request_from_submit(submit, now=0.0)
    assert caught.value.param == name


def test_reserved_fields_are_refused_not_ignored() -> None:
    media = session_pb2.PromptSegment(media=session_pb2.Media(num_tokens=3))
    for submit in (a_submit(grammar="{}"), a_submit(prompt=[media])):
        with pytest.raises(UnsupportedError):
            request_from_submit(submit, now=0.0)


@pytest.mark.parametrize(
    "handoff",
    [
        session_pb2.HandoffRole(handoff_id=bytes(16), peer=PEER),
        session_pb2.HandoffRole(side="SIDE_SOURCE", handoff_id=bytes(15), peer=PEER),
        session_pb2.HandoffRole(side="SIDE_TARGET", handoff_id=bytes(16)),
    ],
)
def test_incomplete_handoff_is_refused(handoff: session_pb2.HandoffRole) -> None:
    submit = a_submit()
    submit.handoff.CopyFrom(handoff)
    with pytest.raises(InvalidRequestError, match="handoff"):
        request_from_submit(submit, now=0.0)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_an_error(raw: bytes) -> None:
    with suppress(DecodeError, InvalidRequestError):
        request_from_submit(session_pb2.Submit.FromString(raw), now=0.0)


def test_prefetch_names_the_blocks_that_its_request_will() -> None:
    submit = a_submit()
    submit.tenant_salt = "a"
    request = request_from_submit(submit, 0.0)
    hint = request_from_prefetch(
        session_pb2.Prefetch(
            model="m", tenant_salt="a", prompt=submit.prompt, cache_ttl_ms=1500, fetch_from=PEER
        ),
        0.0,
    )
    assert (hint.model, hint.prompt, hint.tenant_salt) == (
        request.model,
        request.prompt,
        request.tenant_salt,
    )
    assert hint.cache_ttl_s == 1.5


@pytest.mark.parametrize("missing", ["worker_id", "epoch", "address"])
def test_whom_to_fetch_from_must_be_said(missing: str) -> None:
    submit = a_submit()
    submit.fetch_from.CopyFrom(PEER)
    submit.fetch_from.ClearField(missing)
    with pytest.raises(InvalidRequestError) as caught:
        request_from_submit(submit, 0.0)
    assert caught.value.param == "fetch_from"
    with pytest.raises(InvalidRequestError):
        request_from_prefetch(
            session_pb2.Prefetch(prompt=submit.prompt, fetch_from=submit.fetch_from), 0.0
        )


def test_prefetch_without_a_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        request_from_prefetch(session_pb2.Prefetch(model="m"), 0.0)
