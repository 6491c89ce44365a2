"""Log output, set up once per process: one line per event on standard error.

Everywhere else: `log = logging.getLogger(__name__)` and `log.info(*event("request_finished",
request_id=..., code=...))`. Fields given as `extra=` to a plain call are written too. What clients
write or read is never logged: fields that would hold it are withheld even if a call passes them,
and the secrets of API keys are cut out of whatever text they are in.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from baton.core.api_key import redact_keys

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
WITHHELD = frozenset(
    {
        *("prompt", "messages", "content", "text", "token_ids"),
        *("authorization", "token", "password", "api_key"),
    }
)
# Name of the logger that notes who changed what.
AUDIT = "baton.audit"
# What every record has; anything else was passed as `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Event:
    """A name and fields, as one argument of a logging call."""

    def __init__(self, name: str, fields: Mapping[str, Any]) -> None:
        self.name = name
        self.fields = {k: "[withheld]" if k in WITHHELD else v for k, v in fields.items()}

    def __str__(self) -> str:
        return " ".join(
            [_one_line(self.name), *(f"{k}={_value(v)}" for k, v in self.fields.items())]
        )


def event(name: str, /, **fields: Any) -> tuple[str, Event]:
    """Arguments for a logger's method: `log.warning(*event("worker_lost", worker="w1"))`."""
    return "%s", Event(name, fields)


def setup(level: str, format: str, stream: TextIO | None = None) -> None:
    """Send logs to `stream` (standard error), replacing what an earlier call set up.

    `level` is debug, info, warning or error, for Baton's own loggers; libraries' are written from
    warning on. `format` is text or json.
    """
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, _Handler):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(LEVELS[level], logging.WARNING))
    logging.getLogger("baton").setLevel(LEVELS[level])
    _setup_audit(handler.stream)
    logging.captureWarnings(True)


def _setup_audit(stream: TextIO) -> None:
    """The audit log is complete and JSON, whatever the level and format of the rest."""
    audit = logging.getLogger(AUDIT)
    audit.handlers = [h for h in audit.handlers if not isinstance(h, _Handler)]
    handler = _Handler(stream)
    handler.setFormatter(JsonFormatter())
    audit.addHandler(handler)
    audit.setLevel(logging.INFO)
    audit.propagate = False


class _Handler(logging.StreamHandler[TextIO]):
    """Told apart from handlers that others added."""


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, event, fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        happened = _event_of(record)
        line: dict[str, Any] = {
            **happened.fields,
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": happened.name,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return redact_keys(json.dumps(line, default=str, ensure_ascii=False))


class TextFormatter(logging.Formatter):
    """`12:30:01.123 WARNING baton.gateway.app: event key=value`; tracebacks below."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)[11:23]} {record.levelname} {record.name}: {_event_of(record)}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redact_keys(line)


def _event_of(record: logging.LogRecord) -> Event:
    """The record's event; for a plain call, its message and what it passed as `extra`."""
    extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    if isinstance(record.args, tuple) and len(record.args) == 1:
        (only,) = record.args
        if isinstance(only, Event):
            return Event(only.name, {**only.fields, **extra})
    return Event(record.getMessage(), extra)


def _time(record: logging.LogRecord) -> str:
    when = datetime.fromtimestamp(record.created, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(value: object) -> str:
    text = _one_line(str(value))
    return json.dumps(text, ensure_ascii=False) if " " in text or not text else text


def _one_line(text: str) -> str:
    # A peer's text must not be able to pose as a line of its own.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
