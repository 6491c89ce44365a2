"""Settings come from the environment, and what is wrong there is said by name."""

from __future__ import annotations

import os

import pytest

from baton.core.errors import ConfigError
from baton_operator.settings import ENV_PREFIX, load

KEY = "0123456789abcdef"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(ENV_PREFIX):
            monkeypatch.delenv(name)


def given(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in {"key": KEY, **values}.items():
        monkeypatch.setenv(ENV_PREFIX + name.upper(), value)


def test_a_key_is_all_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch)
    settings = load()
    assert settings.key.get_secret_value() == KEY
    assert settings.namespace is None, "all of them"
    assert settings.identity != load().identity, "two processes are never taken for one"


def test_the_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, redis_url="redis://:secret-password@redis:6379")
    assert KEY not in repr(load()) and "secret-password" not in repr(load())


def test_an_empty_variable_is_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, namespace="")
    assert load().namespace is None


def test_a_misspelt_name_is_refused_with_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, namespce="here")
    with pytest.raises(ConfigError, match="did you mean BATON_OPERATOR_NAMESPACE"):
        load()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"key": "short"}, "BATON_OPERATOR_KEY"),
        ({"concurrency": "0"}, "BATON_OPERATOR_CONCURRENCY"),
        ({"log_level": "loud"}, "BATON_OPERATOR_LOG_LEVEL"),
        ({"lease_deadline_s": "20"}, "lease_deadline_s < lease_duration_s"),
    ],
)
def test_values_that_make_no_sense_are_named(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], said: str
) -> None:
    given(monkeypatch, **values)
    with pytest.raises(ConfigError, match=said) as refused:
        load()
    assert "short" not in str(refused.value), "a key is not repeated in a message"
