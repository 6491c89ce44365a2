"""Store URLs are checked where settings are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from baton.core import settings_loader
from baton.core.errors import ConfigError
from baton.core.store_url import RedisGroup, check_store_url, parse_group


@pytest.mark.parametrize(
    "url",
    [
        "embedded",
        "grpc://h:1",
        "grpc://[::1]:65535/",
        "redis://h",
        "redis://h:1/0",
        "redis://u:p@h:1/15?protocol=3",
        "rediss://:p%2Fw@[::1]:1/0",
        "unix:///run/redis.sock?db=2",
        "redis+sentinel://h/main",
        "redis+sentinel://u:p%2Fw@a:1,b,[::1]:3/main/15?sentinel_password=x",
        "rediss+sentinel://:p@a:1/main?ssl_ca_certs=/ca.pem",
        "redis+cluster://a,b:2",
        "rediss+cluster://u:p@a:1/0?ssl_check_hostname=no",
    ],
)
def test_urls_of_stores_pass(url: str) -> None:
    assert check_store_url(url) == url


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "expected embedded, grpc://HOST:PORT"),
        ("localhost:1", "expected embedded, grpc://HOST:PORT"),
        ("http://h:1", "expected embedded, grpc://HOST:PORT"),
        ("redis:/x", "expected embedded, grpc://HOST:PORT"),
        ("grpc://h", "expected grpc://HOST:PORT"),
        ("grpc://h:0", "expected grpc://HOST:PORT"),
        ("grpc://h:65536", "expected grpc://HOST:PORT"),
        ("grpc://u:p@h:1", "expected grpc://HOST:PORT"),
        ("redis://", "no host"),
        ("redis://:secret@/0", "no host"),
        ("redis://h:0", "port 0"),
        ("redis://h:port/0", "the port must be a number"),
        ("redis://:sec/ret@h:1/0", "special characters as %XX"),
        ("redis://h:1/first", "the database must be a number"),
        ("redis://h:1?db=first", "the database must be a number"),
        ("unix://", "unix:///PATH"),
        ("redis+sentinel://a:1", "no name of the primary"),
        ("redis+sentinel://a:1/", "no name of the primary"),
        ("redis+sentinel:///main", "no host"),
        ("redis+sentinel://a:1,/main", "no host"),
        ("redis+sentinel://a:1/main/first", "the database must be a number"),
        ("redis+sentinel://a:1/main/0/x", "the database must be a number"),
        ("redis+sentinel://:sec/ret@a:1/main", "special characters as %XX"),
        ("redis+sentinel://:secret#@a:1/main", "special characters as %XX"),
        ("redis+sentinel://a:0/main", "port 0"),
        ("redis+sentinel://a:65536/main", "the port must be a number"),
        ("redis+sentinel://a/main?db=1", "unknown options: db"),
        ("redis+cluster://a:1/1", "database 0 only"),
        ("redis+cluster://a:1?sentinel_password=secret", "unknown options: sentinel_password"),
        ("redis+cluster://a:1?ssl_ca_certs=/ca.pem", "TLS options need rediss+cluster://"),
        ("redis+other://a:1", "expected embedded, grpc://HOST:PORT"),
    ],
)
def test_others_are_refused_with_what_is_wrong(url: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_store_url(url)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_group_of_servers_is_taken_apart() -> None:
    url = "rediss+sentinel://u%3A:p%40%2C@a:1,b,[::1]:3/main/2?sentinel_password=s&ssl_keyfile=/k"
    assert parse_group(url) == RedisGroup(
        kind="sentinel",
        is_tls=True,
        addresses=(("a", 1), ("b", 26379), ("::1", 3)),
        username="u:",
        password="p@,",
        master="main",
        db=2,
        sentinel_password="s",
        options={"ssl_keyfile": "/k"},
    )
    assert parse_group("redis+cluster://a,b:2") == RedisGroup(
        "cluster", False, (("a", 6379), ("b", 2)), None, None
    )


def test_settings_name_the_setting_and_its_source_without_the_password(tmp_path: Path) -> None:
    file = tmp_path / "baton.yaml"
    file.write_text("store: {url: 'redis://:secret@h:x/0'}\n")
    with pytest.raises(ConfigError) as caught:
        settings_loader.load(file)
    assert caught.value.message.startswith(f"store.url = 'redis://:***@h:x/0' ({file}): the port")
    assert "secret" not in caught.value.message
