"""From a record to a document that says where a call's time went, and why (pure).

Times of a document are seconds since the call arrived, as its gateway heard of things. See
docs/gateway.md for what each field means.
"""

from __future__ import annotations

from typing import Any

from baton.gateway.records.call_record import CallRecord, PromptOutcome
from baton.gateway.records.request_record import Attempt

JSON = dict[str, Any]


def summary(record: CallRecord) -> JSON:
    """What a list shows."""
    return {
        "id": record.call_id,
        "request_id": record.request_id,
        "api": record.api,
        "model": record.model,
        "code": record.code,
        "arrived_at": round(record.arrived_unix, 3),
        "duration_s": _s(record.ended_at - record.arrived),
        "first_token_s": _opt(record.first_token_s),
        "max_gap_s": _s(record.max_gap_s),
        "prompt_tokens": sum(prompt.record.num_prompt_tokens for prompt in record.prompts),
        "cached_tokens": sum(prompt.cached_tokens for prompt in record.prompts),
        "completion_tokens": sum(prompt.num_tokens for prompt in record.prompts),
        "slow": record.is_slow,
        "failed": record.is_failed,
    }


def document(record: CallRecord) -> JSON:
    """The whole record."""
    return {
        "object": "baton.request",
        **summary(record),
        "state": "open" if record.is_open else "ended",
        "message": record.message,
        "tenant": record.tenant,
        "trace_id": _trace_id(record.traceparent),
        "num_prompts": record.num_prompts,
        "prompts": [_prompt(record, prompt) for prompt in record.prompts],
    }


def _prompt(record: CallRecord, prompt: PromptOutcome) -> JSON:
    notes = prompt.record
    since = record.arrived
    attempts = [_attempt(attempt, since) for attempt in notes.attempts]
    return {
        "id": notes.request_id,
        "prompt_tokens": notes.num_prompt_tokens,
        "completion_tokens": prompt.num_tokens,
        "num_choices": prompt.num_choices,
        "finish_reasons": list(prompt.finish_reasons),
        "first_token_s": _at(prompt.first_token_at, since),
        "predicted": _predicted(prompt, attempts),
        "phases": _phases(record, prompt),
        "attempts": attempts,
        "moves": [
            {
                "from": move.origin,
                "to": move.heir,
                "reason": move.reason,
                "began_s": _s(move.began_at - since),
                "ended_s": _s(move.ended_at - since),
                "failure": move.failure or None,
            }
            for move in notes.moves
        ],
        "not_shown": notes.num_dropped,
    }


def _attempt(attempt: Attempt, since: float) -> JSON:
    failure = attempt.failure
    return {
        "attempt": attempt.number,
        "prefill": attempt.prefill or None,
        "decode": attempt.decode,
        "queued_s": _s(attempt.queued_at - since),
        "placed_s": _s(attempt.placed_at - since),
        "scheduled_s": _at(attempt.scheduled_at, since),
        "cached_tokens": attempt.cached_tokens,
        "adopted_s": _at(attempt.adopted_at, since) if attempt.prefill else None,
        "handoff": _handoff(attempt),
        "choice": None if attempt.choice is None else attempt.choice.to_json(),
        "failure": None
        if failure is None
        else {
            "at_s": _s(failure.at - since),
            "worker": failure.worker or None,
            "side": failure.side or None,
            "code": failure.code,
            "message": failure.message,
        },
    }


def _handoff(attempt: Attempt) -> JSON | None:
    handoff, step = attempt.handoff, attempt.first_step
    if handoff is None and step is None:
        return None
    found: JSON = {}
    if handoff is not None:
        bytes_per_s = handoff.num_bytes / handoff.transfer_s if handoff.transfer_s > 0 else 0.0
        found |= {
            "transport": handoff.transport,
            "bytes": handoff.num_bytes,
            "hidden_bytes": handoff.num_hidden_bytes,
            "grant_wait_s": _s(handoff.grant_wait_s),
            "transfer_s": _s(handoff.transfer_s),
            "gb_per_s": float(f"{bytes_per_s / 1e9:.4g}") or None,
            "exposed_s": _s(handoff.exposed_s),
            "verify_s": _s(handoff.verify_s),
        }
    if step is not None:
        found |= {"offer_wait_s": _s(step.offer_wait_s), "first_step_s": _s(step.first_step_s)}
    return found


def _phases(record: CallRecord, prompt: PromptOutcome) -> list[JSON]:
    """The call's time in pieces, one after the other; `prefill` and `decode` overlap nothing."""
    notes, since = prompt.record, record.arrived
    phases: list[JSON] = []

    def add(name: str, begin: float, end: float, attempt: int | None = None) -> None:
        if end > begin:
            times = {"start_s": _s(begin - since), "end_s": _s(end - since)}
            phases.append({"name": name, "attempt": attempt, **times})

    add("prepare", since, notes.submitted_at)
    last = prompt.last_token_at if record.code == "ok" else record.ended_at
    for index, attempt in enumerate(notes.attempts):
        number = attempt.number
        add("queue", attempt.queued_at, attempt.placed_at, number)
        is_last = index + 1 == len(notes.attempts)
        end = attempt.failure.at if attempt.failure is not None else last
        if attempt.failure is None and not is_last:
            end = notes.attempts[index + 1].queued_at
        if not attempt.scheduled_at:
            add("worker_queue", attempt.placed_at, end, number)
            continue
        first = prompt.first_token_at
        if not attempt.placed_at <= first <= end:
            # A replay goes on where another attempt began; or no token came at all.
            add("worker_queue", attempt.placed_at, attempt.scheduled_at, number)
            add("replay" if first else "prefill", attempt.scheduled_at, end, number)
            continue
        # A frame's rows are heard before its events.
        scheduled = min(attempt.scheduled_at, first)
        add("worker_queue", attempt.placed_at, scheduled, number)
        add("prefill", scheduled, first, number)
        decode = first
        if attempt.prefill and first < attempt.adopted_at <= end:
            add("handoff", first, attempt.adopted_at, number)
            decode = attempt.adopted_at
        add("decode", decode, end, number)
    if not notes.attempts or notes.queued_at > notes.attempts[-1].placed_at:
        # It waits, or waited in vain.
        add("queue", notes.queued_at, record.ended_at)
    return phases


def _predicted(prompt: PromptOutcome, attempts: list[JSON]) -> JSON | None:
    """What the router expected of the first placement, beside what came."""
    if not attempts or attempts[0]["choice"] is None:
        return None
    predicted = attempts[0]["choice"].get("predicted") or {}
    first = prompt.record.attempts[0]
    num_gaps = prompt.num_tokens - prompt.num_choices
    duration_s = prompt.last_token_at - prompt.first_token_at
    came = prompt.first_token_at
    actual = {
        "cached_tokens": first.cached_tokens if first.scheduled_at else None,
        "ttft_s": _s(came - first.placed_at) if came else None,
        "tpot_s": _s(duration_s / num_gaps) if num_gaps > 0 and prompt.num_choices == 1 else None,
        "transfer_s": None if first.handoff is None else _s(first.handoff.transfer_s),
    }
    return {
        name: {"predicted": _opt(predicted.get(name)), "actual": value}
        for name, value in actual.items()
    }


def _trace_id(traceparent: str) -> str | None:
    return traceparent.split("-")[1] if traceparent else None


def _at(instant: float, since: float) -> float | None:
    return _s(instant - since) if instant else None


def _opt(value: float | None) -> float | None:
    return None if value is None else _s(value)


def _s(seconds: float) -> float:
    return round(seconds, 6)
