"""`core.request.Request` to `Submit` and back.

The way back trusts nothing: whatever a stranger could put into a Submit is either a valid Request
or an InvalidRequestError that names the field.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

from baton.core.errors import InvalidRequestError, UnsupportedError
from baton.core.request import Request, SamplingParams
from baton.v1 import common_pb2, session_pb2

HANDOFF_ID_BYTES = 16
# What is done for a prompt that has not come ends after this, if not before.
PREFETCH_S = 30.0
_MAX_UINT32 = 2**32 - 1


def submit_from_request(
    request: Request,
    *,
    attempt: int,
    now: float,
    stream_interval: int = 1,
) -> session_pb2.Submit:
    """The message that places `request`, apart from `slot` and `handoff`, which its workers have
    each of their own; `now` is this process's monotonic time. At a `stream_interval` above 1 tokens
    may come in runs of so many.
    """
    return session_pb2.Submit(
        request_id=request.request_id,
        attempt=attempt,
        model=request.model,
        lora_id=request.lora_id,
        lora_revision=request.lora_revision,
        tenant_salt=request.tenant_salt,
        prompt=[session_pb2.PromptSegment(token_ids=session_pb2.TokenIds(ids=request.prompt))],
        choices=[
            session_pb2.Choice(index=index, output_so_far=output)
            for index, output in request.outputs.items()
        ],
        sampling=sampling_to_proto(request.sampling),
        seed=request.seed,
        grammar=request.grammar,
        # A request whose time is up still travels: its gateway ends it.
        remaining_ms=max(1, min(_MAX_UINT32, int((request.deadline - now) * 1000))),
        traceparent=request.traceparent,
        priority=request.priority,
        cache_ttl_ms=min(_MAX_UINT32, round(request.cache_ttl_s * 1000)),
        stream_interval=stream_interval,
    )


def request_from_submit(submit: session_pb2.Submit, now: float) -> Request:
    """The Request that a Submit carries, with its deadline on this process's monotonic time.

    Raises InvalidRequestError (UnsupportedError for what is reserved) naming the field.
    """
    if not submit.request_id:
        raise InvalidRequestError("request_id is empty", param="request_id")
    if submit.attempt < 1:
        raise InvalidRequestError("attempt must be at least 1", param="attempt")
    if submit.grammar:
        raise UnsupportedError("constrained output is not served yet", param="grammar")
    sampling = sampling_from_proto(submit.sampling)
    outputs = _outputs(submit, sampling)
    if submit.HasField("handoff"):
        _check_handoff(submit.handoff)
    if submit.HasField("fetch_from"):
        _check_worker(submit.fetch_from, "fetch_from")
    return Request(
        request_id=submit.request_id,
        model=submit.model,
        prompt=_prompt(submit.prompt),
        sampling=sampling,
        seed=submit.seed,
        deadline=now + submit.remaining_ms / 1000,
        outputs=MappingProxyType(outputs),
        lora_id=submit.lora_id,
        lora_revision=submit.lora_revision,
        tenant_salt=submit.tenant_salt,
        priority=submit.priority,
        traceparent=submit.traceparent,
        cache_ttl_s=submit.cache_ttl_ms / 1000,
    )


def request_from_prefetch(prefetch: session_pb2.Prefetch, now: float) -> Request:
    """A request for the prompt that is about to come, which nobody runs.

    Raises as `request_from_submit`.
    """
    if prefetch.HasField("fetch_from"):
        _check_worker(prefetch.fetch_from, "fetch_from")
    return Request(
        request_id="prefetch",
        model=prefetch.model,
        prompt=_prompt(prefetch.prompt),
        sampling=SamplingParams(max_tokens=1),
        seed=0,
        deadline=now + PREFETCH_S,
        lora_id=prefetch.lora_id,
        lora_revision=prefetch.lora_revision,
        tenant_salt=prefetch.tenant_salt,
        cache_ttl_s=prefetch.cache_ttl_ms / 1000,
    )


def sampling_to_proto(params: SamplingParams) -> common_pb2.SamplingParams:
    """Field by field."""
    return common_pb2.SamplingParams(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias=params.logit_bias,
        max_tokens=params.max_tokens,
        min_tokens=params.min_tokens,
        stop_token_ids=params.stop_token_ids,
        ignore_eos=params.ignore_eos,
        logprobs=params.logprobs,
        top_logprobs=params.top_logprobs,
    )


def sampling_from_proto(params: common_pb2.SamplingParams) -> SamplingParams:
    """The parameters, checked. Raises InvalidRequestError."""
    sampling = SamplingParams(
        max_tokens=params.max_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias=MappingProxyType(dict(params.logit_bias)),
        min_tokens=params.min_tokens,
        stop_token_ids=tuple(params.stop_token_ids),
        ignore_eos=params.ignore_eos,
        logprobs=params.logprobs,
        top_logprobs=params.top_logprobs,
    )
    sampling.check()
    return sampling


def _prompt(segments: Iterable[session_pb2.PromptSegment]) -> tuple[int, ...]:
    ids: list[int] = []
    for segment in segments:
        if segment.WhichOneof("segment") != "token_ids":
            raise UnsupportedError("only token ids can be prompted with yet", param="prompt")
        ids.extend(segment.token_ids.ids)
    if not ids:
        raise InvalidRequestError("the prompt is empty", param="prompt")
    return tuple(ids)


def _outputs(submit: session_pb2.Submit, sampling: SamplingParams) -> dict[int, tuple[int, ...]]:
    outputs = {choice.index: tuple(choice.output_so_far) for choice in submit.choices}
    if not outputs:
        raise InvalidRequestError("a request needs at least one choice", param="choices")
    if len(outputs) != len(submit.choices):
        raise InvalidRequestError("two choices have the same index", param="choices")
    for index, output in outputs.items():
        if len(output) >= sampling.max_tokens:
            raise InvalidRequestError(
                f"choice {index} has {len(output)} tokens already, of max_tokens "
                f"{sampling.max_tokens}",
                param="choices",
            )
    return outputs


def check_migrate(migrate: session_pb2.Migrate) -> None:
    """Raise InvalidRequestError, naming the field, unless it says where to."""
    _check_peer(migrate, "migrate")


def _check_handoff(handoff: session_pb2.HandoffRole) -> None:
    if handoff.side == session_pb2.HandoffRole.SIDE_UNSPECIFIED:
        raise InvalidRequestError("handoff names no side", param="handoff")
    _check_peer(handoff, "handoff")


def _check_peer(handoff: session_pb2.HandoffRole | session_pb2.Migrate, param: str) -> None:
    if len(handoff.handoff_id) != HANDOFF_ID_BYTES:
        raise InvalidRequestError(
            f"handoff_id must have {HANDOFF_ID_BYTES} bytes, got {len(handoff.handoff_id)}",
            param=param,
        )
    _check_worker(handoff.peer, param)


def _check_worker(worker: common_pb2.WorkerRef, param: str) -> None:
    if not worker.worker_id or not worker.epoch or not worker.address:
        raise InvalidRequestError(f"{param} names no peer", param=param)
