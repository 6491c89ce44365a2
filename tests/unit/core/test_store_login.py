"""A login that comes apart from the store's address, as it does from a Secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.connection import parse_url

from baton.core import settings_loader
from baton.core.errors import ConfigError
from baton.core.settings import StoreSettings
from baton.core.store_url import parse_group, with_login

NASTY = "p@s/s#w:d%?&+ ü"


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_login_arrives_as_it_was(username: str, password: str) -> None:
    found = parse_url(with_login("redis://host:6380/3", username, password))
    assert (found["username"], found["password"]) == (username, password)
    assert (found["host"], found["port"], found["db"]) == ("host", 6380, 3)


def test_groups_of_servers_take_one_too() -> None:
    for url in ("rediss+sentinel://a:26379,b/main/1", "redis+cluster://a:7000,b:7001"):
        group = parse_group(with_login(url, None, NASTY))
        assert (group.username, group.password) == (None, NASTY)
        assert group.addresses == parse_group(url).addresses


def test_the_settings_hold_a_password_in_the_url_alone() -> None:
    settings = StoreSettings(url="redis://host/0", username="baton", password=NASTY)
    assert parse_url(settings.url)["password"] == NASTY
    assert (settings.username, settings.password) == (None, None)
    assert StoreSettings.model_validate(settings.model_dump()) == settings


@pytest.mark.parametrize(
    "url", ["embedded", "grpc://host:7000", "redis://me:hidden@host", "redis+cluster://:hidden@a"]
)
def test_a_login_that_fits_nowhere_is_refused_without_a_word_of_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATON_STORE__URL", url)
    monkeypatch.setenv("BATON_STORE__PASSWORD", "secret")
    with pytest.raises(ConfigError, match="username and password are") as caught:
        settings_loader.load()
    assert "secret" not in str(caught.value) and "hidden" not in str(caught.value)


def test_what_is_printed_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATON_STORE__URL", "redis://host:6379/0")
    monkeypatch.setenv("BATON_STORE__PASSWORD", "secret")
    assert "secret" not in settings_loader.effective_yaml(settings_loader.load())
