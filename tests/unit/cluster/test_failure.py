"""Ray's account of a dead actor, and the error that is told for it."""

from __future__ import annotations

from baton.cluster.failure import explain
from baton.core.errors import ConfigError, ModelLoadError, UnavailableError

HEAD = (
    "The actor died because of an error raised in its creation task, "
    "\x1b[36mray::WorkerActor.__init__()\x1b[39m (pid=10126, ip=127.0.0.1)\n"
    '  File "worker.py", line 11, in __init__\n    start()\n    ^^^^^^^\n'
)


def test_a_workers_own_error_is_told_in_its_words() -> None:
    error = explain("any-0", HEAD + "baton.core.errors.ModelLoadError: weights are cut off")
    assert type(error) is ModelLoadError
    assert error.message == "any-0: weights are cut off"


def test_a_message_of_several_lines_stays_whole() -> None:
    error = explain("any-0", HEAD + "ConfigError: no memory for KV\nlower kv_memory_bytes")
    assert type(error) is ConfigError
    assert error.message == "any-0: no memory for KV\nlower kv_memory_bytes"


def test_a_foreign_error_becomes_unavailable_with_its_last_line() -> None:
    error = explain("any-0", HEAD + "RuntimeError: CUDA error: out of memory\n\n")
    assert type(error) is UnavailableError
    assert error.message == "any-0 could not start: RuntimeError: CUDA error: out of memory"


def test_silence_is_said_to_be_silence() -> None:
    assert explain("any-0", "").message == "any-0 could not start: no reason given"
