"""Layers of settings, and errors that name the right one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from baton.core.errors import ConfigError
from baton.core.settings import Settings
from baton.core.settings_loader import effective_yaml, load, nearest_setting, setting_fields


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("BATON_"):
            monkeypatch.delenv(name)


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "baton.yaml"
    path.write_text(text)
    return path


def _problem(config_file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(config_file, overrides)
    assert "Traceback" not in caught.value.message
    assert "pydantic" not in caught.value.message
    return caught.value.message


def test_nothing_given_is_the_defaults() -> None:
    assert load() == Settings()
    assert type(load()) is Settings


def test_flags_win_over_environment_over_file_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _file(
        tmp_path,
        "gateway: {port: 1, grpc_port: 2, max_queue: 3}\npools:\n  decode: 4\ntoken_file: a\n",
    )
    monkeypatch.setenv("BATON_GATEWAY__PORT", "11")
    monkeypatch.setenv("BATON_GATEWAY__GRPC_PORT", "12")
    monkeypatch.setenv("BATON_TOKEN_FILE", "b")
    settings = load(path, {"gateway.port": 21, "pools.prefill": 22})
    assert settings.gateway.port == 21
    assert settings.gateway.grpc_port == 12
    assert settings.gateway.max_queue == 3
    assert settings.gateway.host == "127.0.0.1"
    assert (settings.pools.prefill, settings.pools.decode) == (22, 4)
    assert settings.token_file == Path("b")


def test_a_flag_that_is_not_given_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATON_GATEWAY__PORT", "11")
    assert load(None, {"gateway.port": None}).gateway.port == 11


def test_an_empty_file_and_empty_groups_are_defaults(tmp_path: Path) -> None:
    assert load(_file(tmp_path, "")) == Settings()
    assert load(_file(tmp_path, "gateway:\nengine: {}\n")) == Settings()


def test_variables_of_tests_and_benches_are_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATON_TEST_ANYTHING", "1")
    monkeypatch.setenv("BATON_BENCH_ANYTHING", "1")
    monkeypatch.setenv("BATONS", "1")
    assert load() == Settings()


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("BATON_GATEWAY__PROT", "BATON_GATEWAY__PORT"),
        ("BATON_GATEWAY_PORT", "BATON_GATEWAY__PORT"),
        ("BATON_PORT", "BATON_GATEWAY__PORT"),
        ("BATON_GRPC_PORT", "BATON_GATEWAY__GRPC_PORT"),
        ("BATON_TOKENFILE", "BATON_TOKEN_FILE"),
        ("BATON_ENGINE__KV_BLOCK", "BATON_ENGINE__KV_BLOCKS"),
        ("BATON_STORE_URL", "BATON_STORE__URL"),
        ("baton_gateway__prot", "BATON_GATEWAY__PORT"),
    ],
)
def test_an_unknown_variable_is_an_error_that_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, variable: str, nearest: str
) -> None:
    monkeypatch.setenv(variable, "1")
    assert _problem() == f"unknown environment variable {variable}; did you mean {nearest}?"


@pytest.mark.parametrize("variable", ["BATON_GATEWAY", "BATON_ZZZ", "BATON_"])
def test_variables_like_nothing_are_errors_too(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, '{"port": 1}')
    assert _problem().startswith(f"unknown environment variable {variable};")


@pytest.mark.parametrize(
    ("text", "name", "nearest"),
    [
        ("gateway: {prot: 1}", "gateway.prot", "gateway.port"),
        ("gatway: {port: 1}", "gatway", "gateway"),
        ("port: 1", "port", "gateway.port"),
        ("prefill: 2", "prefill", "pools.prefill"),
        ("engine: {max-batch-tokens: 1}", "engine.max-batch-tokens", "engine.max_batch_tokens"),
        ("gateway: {tls: {cert: x}}", "gateway.tls", None),
        ("1: 2", "1", None),
    ],
)
def test_an_unknown_name_in_the_file_is_an_error_that_names_the_nearest(
    tmp_path: Path, text: str, name: str, nearest: str | None
) -> None:
    path = _file(tmp_path, text)
    message = _problem(path)
    assert message.startswith(f"unknown setting '{name}' in {path}; ")
    if nearest is not None:
        assert message.endswith(f"did you mean '{nearest}'?")


def test_a_dotted_name_in_the_file_is_told_to_nest(tmp_path: Path) -> None:
    assert "groups nest" in _problem(_file(tmp_path, "gateway.port: 1\n"))


def test_an_unknown_flag_is_an_error_that_names_the_nearest() -> None:
    assert _problem(None, {"gateway.hots": "x"}).endswith("did you mean 'gateway.host'?")
    assert "`baton config`" in _problem(None, {"zzz": 1})


def test_every_setting_is_its_own_nearest() -> None:
    for name in setting_fields():
        assert nearest_setting(name) == name


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            {"gateway.port": 70000},
            "gateway.port = 70000 (flag): must be less than or equal to 65535",
        ),
        ({"model.device": "tpu"}, "model.device = 'tpu' (flag): must be 'auto', 'cpu' or 'cuda'"),
        ({"pools.decode": 0}, "pools.decode = 0 (flag): must be greater than or equal to 1"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(overrides: dict[str, Any], words: str) -> None:
    assert _problem(None, overrides) == words


def test_a_bad_value_names_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path, "engine: {kv_blocks: many}\n")
    monkeypatch.setenv("BATON_GATEWAY__PORT", "eighty")
    lines = _problem(path, {"log.level": "loud"}).splitlines()
    assert len(lines) == 3
    assert any(f"engine.kv_blocks = 'many' ({path}): must be a valid integer" in x for x in lines)
    assert any("gateway.port = 'eighty' (BATON_GATEWAY__PORT): must be a valid" in x for x in lines)
    assert any("log.level = 'loud' (flag): must be 'debug'" in x for x in lines)


def test_a_long_value_is_cut() -> None:
    assert len(_problem(None, {"log.level": "x" * 10_000})) < 300


def test_all_unknown_names_are_listed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATON_PRT", "1")
    message = _problem(_file(tmp_path, "a: 1\ngateway: {b: 2}\n"), {"c": 3})
    assert len(message.splitlines()) == 4


def test_a_group_that_is_a_value_is_an_error_that_lists_the_group(tmp_path: Path) -> None:
    message = _problem(_file(tmp_path, "pools: 4\n"))
    assert message.endswith("is a group of settings: pools.prefill, pools.decode")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n", "must hold settings by name"),
        ("just words", "must hold settings by name"),
        ("gateway: {port: 1\n", ":2: "),
        ("a: b: c", ":1: "),
        ("gateway: {port: 1, port: 2}", ":1: 'port' is given twice"),
        ("log: {level: info}\nlog: {level: debug}", ":2: 'log' is given twice"),
        ("gateway: !!python/object:os.system {}", ":1: could not determine a constructor"),
        ("? {a: 1}\n: 2", ":1: found unhashable key"),
    ],
)
def test_a_file_that_is_not_settings_is_an_error_with_its_line(
    tmp_path: Path, text: str, words: str
) -> None:
    path = _file(tmp_path, text)
    message = _problem(path)
    assert str(path) in message
    assert words in message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "No such file" in _problem(tmp_path / "none.yaml")
    assert "directory" in _problem(tmp_path)
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"log: {level: \xe9}")
    assert _problem(path) == f"{path} is not UTF-8 text"


def test_null_is_a_value_where_it_means_something(tmp_path: Path) -> None:
    path = _file(tmp_path, "transfer: {ucx_net_devices: null}\n")
    assert load(path).transfer.ucx_net_devices is None
    assert "must be a valid integer" in _problem(_file(tmp_path, "gateway: {port: null}"))


def test_a_lease_that_runs_out_between_renewals_is_refused() -> None:
    message = _problem(None, {"worker.lease_ttl_s": 2, "worker.lease_renew_s": 2})
    assert "worker.lease_renew_s (2) must be below worker.lease_ttl_s (2)" in message


def test_the_printed_tree_loads_as_the_same_settings(tmp_path: Path) -> None:
    settings = load(
        None, {"gateway.port": 1, "model.source": "ö", "token_file": "/t", "engine.kv_blocks": 9}
    )
    assert load(_file(tmp_path, effective_yaml(settings))) == settings
    assert set(yaml.safe_load(effective_yaml(settings))) == set(Settings.model_fields)


def test_the_printed_tree_shows_no_password() -> None:
    settings = load(None, {"store.url": "redis://u:s3cret@h:6379/0"})
    assert settings.store.url == "redis://u:s3cret@h:6379/0"
    assert "s3cret" not in effective_yaml(settings)
    assert "redis://u:***@h:6379/0" in effective_yaml(settings)


def test_every_setting_is_described_and_has_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert setting_fields()["gateway.port"].env == "BATON_GATEWAY__PORT"
    assert setting_fields()["token_file"].env == "BATON_TOKEN_FILE"
    for name, field in setting_fields().items():
        assert field.info.description, f"{name} has no docstring"
        default = field.info.get_default(call_default_factory=True)
        if isinstance(default, str | int | float):
            monkeypatch.setenv(field.env, str(default))
    assert load() == Settings()
