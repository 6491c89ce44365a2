"""Log lines for people and for collectors."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from baton.core.api_key import draw_key
from baton.telemetry.logging import event, setup

log = logging.getLogger("baton.test")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, baton, audit = (logging.getLogger(name) for name in (None, "baton", "baton.audit"))
    before = (root.handlers[:], root.level, baton.level)
    yield io.StringIO()
    root.handlers[:], root.level, baton.level = before
    audit.handlers.clear()
    audit.propagate = True
    root.setLevel(before[1])
    baton.setLevel(before[2])
    logging.captureWarnings(False)


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_hold_the_event_and_its_fields(stream: io.StringIO) -> None:
    setup("info", "json", stream)
    log.info(*event("request_finished", request_id="r1", num_tokens=3))
    log.warning("worker_lost", extra={"worker": "w1", "reason": "refused"})
    first, second = _lines(stream)
    assert first["event"] == "request_finished"
    assert first["request_id"] == "r1"
    assert first["num_tokens"] == 3
    assert (first["level"], first["logger"]) == ("info", "baton.test")
    assert first["time"].endswith("Z")
    assert (second["event"], second["worker"]) == ("worker_lost", "w1")


def test_text_lines_are_for_reading(stream: io.StringIO) -> None:
    setup("info", "text", stream)
    log.warning(*event("worker_lost", worker="w1", reason="no answer", epoch=""))
    time, _, rest = stream.getvalue().partition(" ")
    assert time.count(":") == 2
    assert rest == 'WARNING baton.test: worker_lost worker=w1 reason="no answer" epoch=""\n'


@pytest.mark.parametrize("format_", ["text", "json"])
def test_what_a_peer_sends_cannot_pose_as_a_line(stream: io.StringIO, format_: str) -> None:
    setup("info", format_, stream)
    log.error(*event("failed", reason="x\n12:00:00.000 ERROR baton: forged\x1b[2J"))
    log.error("message\nforged")
    assert len(stream.getvalue().splitlines()) == 2
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("format_", ["text", "json"])
def test_prompts_and_secrets_are_withheld(stream: io.StringIO, format_: str) -> None:
    setup("debug", format_, stream)
    for name in ("prompt", "messages", "content", "text", "token_ids", "token", "password"):
        log.debug(*event("received", **{name: "private"}))
        log.debug("received", extra={name: "private"})
    assert "private" not in stream.getvalue()
    assert stream.getvalue().count("[withheld]") == 14


@pytest.mark.parametrize("format_", ["text", "json"])
def test_secrets_of_api_keys_are_cut_out_of_any_text(stream: io.StringIO, format_: str) -> None:
    setup("info", format_, stream)
    new = draw_key()
    secret = new.key.removeprefix(f"sk-baton-{new.id}-")
    log.warning(*event("refused", reason=f"{new.key}: no such model", **{new.key: 1}))
    log.warning("plain %s", new.key, extra={"header": [("x-api-key", new.key)]})
    try:
        raise ValueError(f"Bearer {new.key}")
    except ValueError:
        log.exception(*event("step_failed"))
    logging.getLogger("baton.audit").info(*event("admin_call", path=f"/{new.key}"))
    text = stream.getvalue()
    assert secret not in text
    assert text.count(f"sk-baton-{new.id}-***") >= 6


def test_fields_cannot_replace_the_lines_own(stream: io.StringIO) -> None:
    setup("info", "json", stream)
    log.info(*event("real", event="forged", level="forged", name="kept"))
    (line,) = _lines(stream)
    assert (line["event"], line["level"], line["name"]) == ("real", "info", "kept")


def test_values_of_any_kind_are_written(stream: io.StringIO) -> None:
    setup("info", "json", stream)
    log.info(*event("odd", value=object(), raw=b"\xff", error=ValueError("x")))
    (line,) = _lines(stream)
    assert line["error"] == "x"


@pytest.mark.parametrize("format_", ["text", "json"])
def test_exceptions_come_with_their_traceback(stream: io.StringIO, format_: str) -> None:
    setup("error", format_, stream)
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception(*event("step_failed", worker="w1"))
    text = stream.getvalue()
    assert "step_failed" in text
    assert "ValueError: broken" in text


def test_levels_are_batons_libraries_speak_from_warning_on(stream: io.StringIO) -> None:
    setup("debug", "text", stream)
    log.debug("own")
    logging.getLogger("grpc").info("library")
    logging.getLogger("grpc").warning("library_warning")
    assert [line.split(": ")[1] for line in stream.getvalue().splitlines()] == [
        "own",
        "library_warning",
    ]
    setup("error", "text", stream)
    log.warning("quiet")
    logging.getLogger("grpc").warning("quiet")
    assert "quiet" not in stream.getvalue()


def test_the_audit_log_is_complete_and_json_whatever_the_rest_is(stream: io.StringIO) -> None:
    setup("error", "text", stream)
    setup("error", "text", stream)
    logging.getLogger("baton.audit").info(*event("admin_call", key_id="k", action="POST"))
    (line,) = _lines(stream)
    assert (line["event"], line["key_id"], line["logger"]) == ("admin_call", "k", "baton.audit")


def test_a_second_setup_replaces_the_first(stream: io.StringIO) -> None:
    other = io.StringIO()
    setup("info", "text", other)
    setup("info", "text", stream)
    log.info("once")
    assert other.getvalue() == ""
    assert stream.getvalue().count("once") == 1


def test_other_handlers_can_read_events_too(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "baton"):
        log.info(*event("worker_ready", worker="w1", prompt="private"))
    assert caplog.messages == ["worker_ready worker=w1 prompt=[withheld]"]
