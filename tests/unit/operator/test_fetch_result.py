"""The end of a fetch pod, as `baton fetch --result` tells it."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from baton.cli.main import app
from baton_operator.decide import fetch_result


def told(folder: Path, *arguments: str) -> str:
    """What the command leaves in the file."""
    file = folder / "termination-log"
    CliRunner().invoke(app, ["fetch", "--result", str(file), *arguments])
    return file.read_text(encoding="utf-8")


def test_a_failure_of_the_command_is_its_message(tmp_path: Path) -> None:
    text = told(tmp_path, "--model", "/no/such/folder")
    assert fetch_result.commit(text) is None
    assert fetch_result.problem(text).startswith("no such folder: '/no/such/folder'")


def test_a_model_without_a_commit_has_none(tmp_path: Path) -> None:
    assert fetch_result.commit(told(tmp_path, "--model", "baton-tiny")) is None


def test_a_commit_is_found() -> None:
    assert fetch_result.commit(json.dumps({"event": "done", "commit": "c0ffee"})) == "c0ffee"


def test_the_end_of_a_log_is_shown_as_it_is() -> None:
    assert fetch_result.problem("Killed\n") == "Killed"


@given(st.one_of(st.text(), st.recursive(st.none() | st.integers(), st.lists).map(json.dumps)))
def test_any_text_is_no_commit(text: str) -> None:
    assert fetch_result.commit(text) is None
    assert isinstance(fetch_result.problem(text), str)
