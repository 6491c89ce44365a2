"""A request's record for people: its phases as bars, what the router weighed, what came of it."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

JSON = dict[str, Any]

_STYLES = {
    "prepare": "cyan",
    "queue": "yellow",
    "worker_queue": "yellow",
    "prefill": "blue",
    "handoff": "magenta",
    "decode": "green",
    "replay": "red",
}
_UNITS = {"ttft_s": " s", "tpot_s": " s", "transfer_s": " s"}
_BAR = "━"


def print_record(record: JSON, console: Console | None = None) -> None:
    """Print a document of GET /v1/baton/requests/{id}."""
    from rich.console import Console

    if console is None:
        # Into a pipe nothing is cut.
        console = Console(width=None if sys.stdout.isatty() else 160)
    for line in _head(record):
        console.print(line, markup=False, highlight=False)
    for prompt in record["prompts"]:
        console.print()
        if record["num_prompts"] > 1:
            console.print(f"prompt {prompt['id']}", markup=False, highlight=False)
        _print_prompt(console, prompt, record["duration_s"])


def _head(record: JSON) -> Iterator[str]:
    state = record["code"] if record["state"] == "ended" else "not ended yet"
    marks = [name for name in ("slow", "failed") if record[name]]
    yield f"{record['id']}: {', '.join([state, *marks])}"
    arrived = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record["arrived_at"]))
    tenant = f", tenant {record['tenant']}" if record["tenant"] else ""
    yield f"{record['api']} of {record['model']} at {arrived}{tenant}"
    if record["request_id"] != record["id"]:
        yield f"x-request-id {record['request_id']}"
    if record["trace_id"]:
        yield f"trace {record['trace_id']}"
    if record["message"]:
        yield record["message"]
    first_s = record["first_token_s"]
    yield (
        f"{_seconds(record['duration_s'])} in all, first token "
        f"{'never' if first_s is None else 'after ' + _seconds(first_s)}, longest gap "
        f"{_seconds(record['max_gap_s'])}; {record['prompt_tokens']} prompt tokens "
        f"({record['cached_tokens']} cached), {record['completion_tokens']} output tokens"
    )


def _print_prompt(console: Console, prompt: JSON, duration_s: float) -> None:
    console.print(_phases(prompt["phases"], duration_s, max(20, console.width - 60)))
    for attempt in prompt["attempts"]:
        console.print()
        for line in _attempt(attempt):
            console.print(line, markup=False, highlight=False)
        if attempt["choice"] is not None:
            for table in _candidates(attempt["choice"]):
                console.print(table)
    for move in prompt["moves"]:
        outcome = f"failed ({move['failure']})" if move["failure"] else "done"
        console.print(
            f"moved from {move['from']} to {move['to']} for {move['reason']}: {outcome}, "
            f"{_seconds(move['ended_s'] - move['began_s'])} from {_seconds(move['began_s'])} on",
            markup=False,
            highlight=False,
        )
    if prompt["not_shown"]:
        console.print(f"{prompt['not_shown']} more attempts or moves are not kept")
    if prompt["predicted"]:
        console.print()
        console.print(_predictions(prompt["predicted"]))


def _phases(phases: Iterable[JSON], duration_s: float, width: int) -> Table:
    """One bar for each, all on one scale."""
    table = _table("PHASE", "", "FROM", "TAKES")
    for phase in phases:
        begin, end = phase["start_s"], phase["end_s"]
        left, cells = bar(begin, end, duration_s, width)
        style = _STYLES.get(phase["name"], "white")
        line = f"{' ' * left}[{style}]{_BAR * cells}[/]{' ' * (width - left - cells)}"
        table.add_row(phase["name"], line, _seconds(begin), _seconds(end - begin))
    return table


def bar(begin: float, end: float, duration: float, width: int) -> tuple[int, int]:
    """(cells before it, cells of it) on a scale of `width` cells: at least one, never too many."""
    if duration <= 0:
        return 0, width
    left = min(width - 1, max(0, math.floor(begin / duration * width)))
    right = min(width, max(left + 1, math.ceil(end / duration * width)))
    return left, right - left


def _attempt(attempt: JSON) -> Iterator[str]:
    workers = [attempt[part] for part in ("prefill", "decode") if attempt[part]]
    yield f"attempt {attempt['attempt']}: {' to '.join(workers)}"
    choice = attempt["choice"]
    if choice is not None:
        yield f"  {choice['policy']}: {choice['reason']}"
        if choice["fetch_from"]:
            yield f"  with cached blocks from {choice['fetch_from']}"
    if attempt["handoff"]:
        yield "  handoff: " + _handoff(attempt["handoff"])
    failure = attempt["failure"]
    if failure is not None:
        who = " of ".join(part for part in (failure["side"], failure["worker"]) if part)
        yield f"  failed after {_seconds(failure['at_s'])} ({who}): {failure['message']}"


def _handoff(handoff: JSON) -> str:
    parts = []
    if "bytes" in handoff:
        rate = f" at {handoff['gb_per_s']:g} GB/s" if handoff["gb_per_s"] else ""
        parts = [
            f"{handoff['bytes'] / 1e6:.1f} MB by {handoff['transport'] or 'nothing'}{rate}",
            f"grant after {_seconds(handoff['grant_wait_s'])}",
            f"exposed {_seconds(handoff['exposed_s'])}",
        ]
    if "first_step_s" in handoff:
        parts.append(f"first decode step {_seconds(handoff['first_step_s'])}")
    return ", ".join(parts)


def _candidates(choice: JSON) -> Iterator[Table]:
    """For each stage the workers that were weighed, with every cost term, the chosen one marked."""
    stages = groupby(choice["candidates"], key=lambda candidate: str(candidate["stage"]))
    for stage, candidates in stages:
        yield _stage(stage, list(candidates), choice["num_candidates"][stage])


def _stage(stage: str, candidates: list[JSON], num_weighed: int) -> Table:
    from rich.markup import escape

    names = list(dict.fromkeys(name for one in candidates for name in one["terms"]))
    head = f"{stage.upper()} ({len(candidates)} OF {num_weighed})"
    terms = (name.upper().replace("_", " ") for name in names)
    table = _table("", head, "SCORE", "CACHED", *terms)
    for one in candidates:
        numbers = [_number(one["terms"].get(name)) for name in names]
        score = "no room" if one["score"] is None else _number(one["score"])
        cached = str(one["cached_tokens"])
        mark = "→" if one["chosen"] else ""
        table.add_row(mark, escape(one["worker"]), score, cached, *numbers)
    return table


def _predictions(predicted: JSON) -> Table:
    table = _table("", "PREDICTED", "ACTUAL")
    for name, both in predicted.items():
        unit = _UNITS.get(name, "")
        values = (both["predicted"], both["actual"])
        shown = (_number(value) + unit if value is not None else "-" for value in values)
        table.add_row(name.removesuffix("_s").replace("_", " "), *shown)
    return table


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"
