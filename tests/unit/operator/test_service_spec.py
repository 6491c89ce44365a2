"""The typed spec: what it refuses, with messages that say what to change."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from baton.core.store_url import check_store_url
from baton_operator.crds.definitions import definitions
from baton_operator.types.model_service import ModelService, ModelServiceSpec
from baton_operator.types.pools import PoolSpec
from baton_operator.types.scalars import amount, whole_bytes
from baton_operator.types.storage import URL_PATTERN, RedisSpec
from suites.service_specs import ACCEPTED, BY_RULE, BY_SCHEMA, UNKNOWN, Refused, manifest


def parsed(over: dict[str, Any]) -> ModelServiceSpec:
    """What the operator makes of a spec; the API server drops nulls before it gets one."""
    body = manifest("demo", over)
    body["spec"] = {key: value for key, value in body["spec"].items() if value is not None}
    return ModelService.model_validate(body).spec


def rules_in(schema: Any) -> Iterator[dict[str, str]]:
    if isinstance(schema, dict):
        yield from schema.get("x-kubernetes-validations", [])
        for value in schema.values():
            yield from rules_in(value)


@pytest.mark.parametrize("case", ACCEPTED.values(), ids=ACCEPTED)
def test_a_valid_spec_is_accepted(case: dict[str, Any]) -> None:
    assert parsed(case).pools


@pytest.mark.parametrize("case", BY_RULE.values(), ids=BY_RULE)
def test_a_broken_rule_says_what_to_change(case: Refused) -> None:
    with pytest.raises(ValidationError) as refusal:
        parsed(case.over)
    assert case.message in str(refusal.value)


@pytest.mark.parametrize("case", [*BY_SCHEMA.values(), *UNKNOWN.values()], ids=str)
def test_a_wrong_field_is_named(case: Refused) -> None:
    with pytest.raises(ValidationError) as refusal:
        parsed(case.over)
    # The items of a list have numbers; that of a repeated key is told by the list itself.
    wanted = case.message.partition("[2]")[0].replace("[", ".").replace("]", "")
    assert any(
        ".".join(map(str, error["loc"])).startswith(wanted) for error in refusal.value.errors()
    )


def test_every_rule_has_a_case() -> None:
    (service, _) = definitions().values()
    rules = {each["message"] for each in rules_in(service) if "oldSelf" not in each["rule"]}
    told = {rule for rule in rules if any(case.message in rule for case in BY_RULE.values())}
    assert rules - told == {rule for rule in rules if rule.startswith("metadata.name")}


@pytest.mark.parametrize("name", ["a", "demo", "qwen3-8b", "a" * 38])
def test_a_name_that_fits_objects_is_accepted(name: str) -> None:
    assert ModelService.model_validate(manifest(name)).metadata.name == name


@pytest.mark.parametrize("name", ["8b", "a.b", "a" * 39, "a-", "A"])
def test_a_name_that_fits_no_object_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=r"metadata.name: take at most 38"):
        ModelService.model_validate(manifest(name))


def test_amounts_may_be_numbers_and_mean_the_same() -> None:
    as_number = PoolSpec.model_validate(
        {"name": "d", "role": "any", "engine": {"kvMemory": 8}, "resources": {"limits": {"cpu": 2}}}
    )
    as_text = PoolSpec.model_validate(
        {
            "name": "d",
            "role": "any",
            "engine": {"kvMemory": "8"},
            "resources": {"limits": {"cpu": "2"}},
        }
    )
    assert as_number == as_text


redis_urls = st.from_regex(URL_PATTERN, fullmatch=True, alphabet=st.characters(codec="ascii"))


@given(redis_urls.filter(lambda url: "[" not in url and "@" not in url))
def test_a_redis_url_that_is_accepted_is_one_that_pods_accept(url: str) -> None:
    assert check_store_url(RedisSpec(url=url).url or "") == url


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("1", 1),
        ("2Ki", 2048),
        ("1.5Gi", 3 * 2**29),
        ("40G", 40_000_000_000),
        (".5k", 500),
        ("1.0001k", 1001),
        ("1E", 10**18),
        ("1Ei", 2**60),
    ],
)
def test_a_size_in_bytes_is_rounded_up(size: str, expected: int) -> None:
    assert whole_bytes(size) == expected


@pytest.mark.parametrize(("quantity", "cores"), [("500m", "0.5"), ("2", "2"), ("0.25", "0.25")])
def test_an_amount_of_cores(quantity: str, cores: str) -> None:
    assert amount(quantity) == Decimal(cores)


@pytest.mark.parametrize("text", ["", "Gi", "1KiB", "one", "1i"])
def test_what_is_no_quantity_has_no_amount(text: str) -> None:
    with pytest.raises(ValueError):
        amount(text)


def test_what_the_server_fills_in_is_read_from_the_object() -> None:
    """Metadata that the operator has no use for is left alone; a newer status, too."""
    body = manifest("demo")
    body["metadata"] |= {"uid": "u", "generation": 3, "managedFields": [{"manager": "kubectl"}]}
    body["status"] = {"phase": "Ready", "ofTheFuture": {"a": 1}}
    service = ModelService.model_validate(body)
    assert (service.metadata.name, service.status.phase) == ("demo", "Ready")
