"""The command line as it is typed: flags, help, errors, exit status."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from baton.cli import flags, gateway
from baton.cli.main import app
from baton.core import settings_loader


def config(*typed: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["config", "--json", *typed], env=env)
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.output)
    return document


def refused(*typed: str) -> str:
    """The message of a command that does not start."""
    result = CliRunner().invoke(app, list(typed))
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.mark.parametrize("table", [flags.SERVE, flags.GATEWAY, flags.WORKER])
def test_every_flag_stands_for_a_setting(table: dict[str, str]) -> None:
    assert set(table.values()) <= settings_loader.setting_fields().keys()


@pytest.mark.parametrize("command", ["serve", "gateway", "worker", "workers", "config", "version"])
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "--" in result.output


def test_flags_reach_the_tree() -> None:
    tree = config(
        *("--port", "1", "--prefill", "3", "--kv-memory", "1GiB", "--dtype", "float64"),
        *("--request-timeout", "1.5", "--mock-step-ms", "2", "--store", "redis://h:1/0"),
    )
    assert tree["gateway"]["port"] == 1
    assert tree["gateway"]["request_timeout_s"] == 1.5
    assert tree["pools"] == {"prefill": 3, "decode": 1}
    assert tree["engine"]["kv_memory_bytes"] == 2**30
    assert tree["engine"]["mock_step_ms"] == 2.0
    assert tree["model"]["dtype"] == "float64"
    assert tree["store"]["url"] == "redis://h:1/0"


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "baton.yaml"
    file.write_text("gateway: {port: 1, grpc_port: 1}\npools: {decode: 5}\n")
    env = {"BATON_GATEWAY__PORT": "2", "BATON_GATEWAY__GRPC_PORT": "2"}
    tree = config("--config", str(file), "--port", "3", env=env)
    assert (tree["gateway"]["port"], tree["gateway"]["grpc_port"]) == (3, 2)
    assert tree["pools"]["decode"] == 5


def test_aggregated_is_prefill_zero() -> None:
    assert config("--aggregated", "--decode", "2")["pools"] == {"prefill": 0, "decode": 2}
    assert config("--aggregated", "--prefill", "0")["pools"]["prefill"] == 0
    assert "leave one of them out" in refused("serve", "--aggregated", "--prefill", "1")


def test_an_unknown_flag_names_the_nearest() -> None:
    assert "--port" in refused("serve", "--prot", "1")


def test_an_unknown_command_names_the_nearest() -> None:
    assert "'workers'" in refused("wrokers")


def test_an_unknown_setting_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATON_GATEWAY__PROT", "1")
    assert "BATON_GATEWAY__PORT" in refused("config")


def test_a_wrong_value_says_what_is_allowed() -> None:
    message = refused("serve", "--engine", "jax")
    assert "baton: engine.kind" in message
    assert "'torch' or 'mock'" in message


@pytest.mark.parametrize("command", ["config", "serve", "gateway", "worker"])
def test_a_wrong_store_is_refused_by_every_command_alike(command: str) -> None:
    message = refused(command, "--store", "redis://:secret@h:port/0")
    assert message.startswith("baton: store.url = 'redis://:***@h:port/0' (flag): the port must")
    assert "secret" not in message


def test_config_refuses_a_length_that_no_worker_would_take() -> None:
    message = refused("config", "--max-model-len", "9000")
    assert message == "baton: --max-model-len 9000 is beyond the model's context length of 8192\n"
    assert config("--max-model-len", "8192")["model"]["max_model_len"] == 8192
    # Of a model that is not here nothing is known yet.
    assert config("--max-model-len", "9000", "--model", "org/name")["model"]["source"] == "org/name"


def test_nodes_of_a_worker_have_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    leader = ("worker", "--store", "redis://h:1/0", "--nodes", "2")
    assert "needs --ray" in refused(*leader)
    assert "set RAY_AUTH_TOKEN" in refused(*leader, "--ray")
    assert "set RAY_AUTH_TOKEN" in refused("worker", "--join", "host")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert "worker.host 127.0.0.1: the other nodes" in refused(*leader, "--ray")
    assert "expected HOST or HOST:PORT" in refused("worker", "--join", "host:port")


def test_a_worker_needs_a_store() -> None:
    assert "--store is missing" in refused("worker")


@pytest.mark.parametrize(
    "url",
    ["redis://user:sec%24ret@h:1/0", "rediss://:sec%24ret@h:1/0", "redis://h?password=sec%24ret"],
)
def test_the_line_to_paste_takes_the_password_from_the_shell(url: str) -> None:
    line, hint = gateway.worker_command(url).split("\n")
    assert "ret" not in line and "STORE_PASSWORD" in hint
    # What a shell makes of it.
    done = subprocess.run(
        ["sh", "-c", line.replace("baton worker --role any", "printenv BATON_STORE__URL")],
        env={"STORE_PASSWORD": "sec%24ret", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{url}\n"


def test_the_line_to_paste_names_a_store_without_a_password() -> None:
    assert gateway.worker_command("grpc://h:1") == "baton worker --role any --store grpc://h:1"


def test_version_is_json_when_asked() -> None:
    versions = json.loads(CliRunner().invoke(app, ["version", "--json"]).output)
    assert {"baton", "python", "torch", "ray"} <= versions.keys()
