"""The service's Secret, made without ever being read, and how pods come to the store with it."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import replace
from typing import Any

import pytest
from redis.connection import parse_url

from baton.core.store_url import check_store_url, parse_group
from baton_operator import names
from baton_operator.resources.context import Context
from baton_operator.resources.internal_secret import derived, internal_secret
from baton_operator.resources.pods.store_login import bundled_user, key_prefix, store_environment
from fakes.model_services import INSTALLATION, UID, context_of

KEY = INSTALLATION.key
SECRET = {"name": "redis"}


def data(context: Context) -> dict[str, str]:
    found = internal_secret(context)["data"]
    return {name: b64decode(value).decode() for name, value in found.items()}


def store(redis: dict[str, Any]) -> dict[str, Any]:
    context = context_of({"store": {"redis": redis}})
    return {
        each["name"]: each.get("value", each.get("valueFrom"))
        for each in store_environment(context)
    }


def test_the_same_service_has_the_same_secrets_for_ever() -> None:
    assert internal_secret(context_of()) == internal_secret(context_of())
    # As openssl has it: another value would cut running pods off from new ones.
    assert derived(b"key", "uid", "token") == (
        "d304bde3c39aea2663d0a48c3e5770687847f639bee93fc186cbd79ed3ba64ef"
    )


def test_services_installations_and_purposes_share_no_secret() -> None:
    other = replace(INSTALLATION, key=b"of another installation")
    every = [
        *data(context_of()).values(),
        *data(context_of(uid="another")).values(),
        *data(context_of(installation=other)).values(),
    ]
    assert len(set(every)) == len(every) == 9


def test_a_token_fits_a_header() -> None:
    token = data(context_of())["token"]
    assert len(token) == 64 and token.isalnum()


def test_the_bundled_store_gets_a_user_of_the_service() -> None:
    found = parse_url(data(context_of())["redis-url"])
    assert found["username"] == bundled_user(UID) == f"baton-{UID}"
    assert found["password"] == derived(KEY, UID, "redis-password")
    assert (found["host"], found["port"]) == ("baton-redis.baton-system.svc", 6379)
    (variable,) = store_environment(context_of())
    assert variable["valueFrom"]["secretKeyRef"] == {
        "name": names.internal_secret("demo", UID),
        "key": "redis-url",
    }


def test_with_a_store_of_the_users_the_secret_holds_none() -> None:
    context = context_of({"store": {"redis": {"url": "redis://r"}}})
    assert data(context).keys() == {"token", "ray-token"}


def test_keys_carry_the_uid() -> None:
    assert key_prefix(UID) == f"baton:{UID}"


def test_an_address_without_a_secret_is_all_there_is() -> None:
    assert store({"url": "redis://redis.data:6379/0"}) == {
        "BATON_STORE__URL": "redis://redis.data:6379/0"
    }


def test_a_missing_password_holds_pods_back_but_a_missing_user_does_not() -> None:
    found = store({"url": "rediss://redis.data/0", "secret": SECRET})
    assert found["BATON_STORE__URL"] == "rediss://redis.data/0"
    assert found["BATON_STORE__PASSWORD"]["secretKeyRef"] == {"name": "redis", "key": "password"}
    assert found["BATON_STORE__USERNAME"]["secretKeyRef"]["optional"] is True


def test_a_secret_can_say_all_of_it() -> None:
    found = store({"secret": SECRET})
    assert found["BATON_STORE__URL"] == {"secretKeyRef": {"name": "redis", "key": "url"}}
    assert found["BATON_STORE__PASSWORD"]["secretKeyRef"]["optional"] is True


@pytest.mark.parametrize("tls", [False, True])
def test_sentinels_and_clusters_are_urls_that_baton_takes(tls: bool) -> None:
    addresses = ["a.data:26379", "[fd00::1]:26380"]
    sentinel = {"master": "main", "addresses": addresses, "database": 3, "tls": tls}
    url = store({"sentinel": sentinel})["BATON_STORE__URL"]
    group = parse_group(check_store_url(url))
    assert (group.kind, group.master, group.db, group.is_tls) == ("sentinel", "main", 3, tls)
    assert group.addresses == (("a.data", 26379), ("fd00::1", 26380))
    url = store({"cluster": {"addresses": addresses, "tls": tls}})["BATON_STORE__URL"]
    group = parse_group(check_store_url(url))
    assert (group.kind, group.is_tls) == ("cluster", tls)
