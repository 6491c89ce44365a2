"""Progress of a start, where it is not a terminal and where it is."""

from __future__ import annotations

import io

from rich.console import Console

from baton.cli.progress import Stages


def test_plain_output_has_a_line_per_finished_stage() -> None:
    out = io.StringIO()
    with Stages(Console(file=out)) as stages:
        stages.start("ray", "Ray")
        stages.start("any-0", "any-0")
        stages.done("ray", "Ray")
        stages.fail("any-0", "any-0 restarting")
        stages.write("a [line] of a log")
        stages.start("any-0", "any-0")
        stages.done("any-0", "any-0, process 7")
    lines = out.getvalue().splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        "Ray",
        "any-0 restarting",
        "a [line] of a log",
        "any-0, process 7",
    ]


def test_a_terminal_shows_what_did_not_finish() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80)
    with Stages(console) as stages:
        stages.start("ray", "Ray")
        stages.done("ray", "Ray")
        stages.start("any-0", "any-0")
    shown = out.getvalue()
    assert "✓" in shown
    assert "stopped" in shown
