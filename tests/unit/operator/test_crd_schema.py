"""The CRDs: structural, described, and of one mind with the typed models."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from baton_operator.crds.definitions import definitions
from baton_operator.crds.structural import structural
from baton_operator.types.model_service import ModelServiceSpec
from baton_operator.types.worker_pool import WorkerPoolSpec
from suites.service_specs import ACCEPTED, BY_RULE, BY_SCHEMA, PAIR, laid_over

Schema = dict[str, Any]
SPECS = {"modelservices": ModelServiceSpec, "workerpools": WorkerPoolSpec}
ROOT = Path(__file__).parents[3]
# What a structural schema may hold: apiextensions/v1, JSONSchemaProps.
ALLOWED = {
    "additionalProperties",
    "anyOf",
    "default",
    "description",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maximum",
    "maxItems",
    "maxLength",
    "maxProperties",
    "minimum",
    "minItems",
    "minLength",
    "pattern",
    "properties",
    "required",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
}


def whole(definition: dict[str, Any]) -> Schema:
    schema: Schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


@cache
def of_spec(name: str) -> Schema:
    schema: Schema = whole(definitions()[name])["properties"]["spec"]
    return schema


def schemas(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """A schema and all below it, with their paths."""
    yield path, schema
    for name, each in schema.get("properties", {}).items():
        yield from schemas(each, f"{path}.{name}")
    for below in ("items", "additionalProperties"):
        if below in schema:
            yield from schemas(schema[below], f"{path}[]")


def all_schemas() -> list[tuple[str, Schema]]:
    return [pair for each in definitions().values() for pair in schemas(whole(each))]


def test_the_committed_files_are_what_the_types_make() -> None:
    folder = ROOT / "deploy" / "helm" / "baton" / "crds"
    assert {
        file.stem: yaml.safe_load(file.read_text()) for file in folder.iterdir()
    } == definitions()


def test_schemas_hold_only_what_crds_may_hold() -> None:
    for path, schema in all_schemas():
        assert schema.keys() <= ALLOWED, path
        assert "x-kubernetes-int-or-string" in schema or {"type"} <= schema.keys(), path
        if "anyOf" in schema:
            assert "x-kubernetes-int-or-string" in schema, path


def test_every_field_is_described_in_one_short_text() -> None:
    for path, schema in all_schemas():
        if path in (".apiVersion", ".kind", ".metadata") or path.endswith("[]"):
            continue
        text = schema.get("description", "")
        assert re.match(r"\w.*\.$", text), path
        assert len(text) <= 300 and "None" not in text.split(), path


def test_what_lists_are_keyed_by_is_required() -> None:
    """Server-side apply merges by it."""
    keyed = [
        (path, schema) for path, schema in all_schemas() if "x-kubernetes-list-map-keys" in schema
    ]
    assert {path for path, _ in keyed} == {
        ".spec.pools",
        ".spec.tenants",
        ".status.pools",
        ".status.conditions",
    }
    for path, schema in keyed:
        assert set(schema["x-kubernetes-list-map-keys"]) <= set(schema["items"]["required"]), path


def test_only_a_route_to_a_gateway_can_name_another_namespace() -> None:
    named = {path for path, _ in all_schemas() if "namespace" in path.rpartition(".")[2].lower()}
    assert named == {
        f".spec.gateway.{route}.parentRefs[].namespace" for route in ("httpRoute", "grpcRoute")
    }


def test_status_has_no_defaults() -> None:
    """Nothing but the operator says anything in it."""
    for path, schema in all_schemas():
        assert not (path.startswith(".status") and "default" in schema), path


def test_status_and_scale_are_subresources() -> None:
    service, pool = (each["spec"]["versions"][0] for each in definitions().values())
    assert service["subresources"] == {"status": {}}
    assert pool["subresources"]["status"] == {}
    assert pool["subresources"]["scale"] == {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }


def test_the_columns_of_get_point_at_fields() -> None:
    for definition in definitions().values():
        version = definition["spec"]["versions"][0]
        paths = {path for path, _ in schemas(whole(definition))}
        for column in version["additionalPrinterColumns"]:
            path = re.sub(r"\[\?.*?\]", "[]", column["jsonPath"])
            assert path in paths or path == ".metadata.creationTimestamp", path


def filled(schema: Schema, value: Any) -> Any:
    """The value with defaults, as the API server fills them in: from above, absent fields only."""
    if isinstance(value, dict) and "properties" in schema:
        value = dict(value)
        for name, each in schema["properties"].items():
            if name not in value and "default" in each:
                value[name] = copy.deepcopy(each["default"])
            if name in value:
                value[name] = filled(each, value[name])
    elif isinstance(value, list):
        value = [filled(schema["items"], each) for each in value]
    return value


@pytest.mark.parametrize("case", ACCEPTED.values(), ids=ACCEPTED)
def test_the_servers_defaults_are_the_models(case: Schema) -> None:
    spec = {key: value for key, value in laid_over(PAIR, case).items() if value is not None}
    typed = ModelServiceSpec.model_validate(spec)
    full = filled(of_spec("modelservices"), spec)
    assert ModelServiceSpec.model_validate(full) == typed

    dumped = typed.model_dump(by_alias=True, exclude_none=True)
    for path, value in leaves(full):
        assert str(found(dumped, path)) == str(value), path


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, below in pairs:
            yield from leaves(below, (*path, key))
    else:
        yield path, value


def found(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def strict(schema: Any) -> Any:
    """With unknown fields as errors, and `$` as the end of the text, as it is for Go and Rust."""
    if isinstance(schema, dict):
        made = {key: strict(value) for key, value in schema.items()}
        if "properties" in made and isinstance(made["properties"], dict):
            made["additionalProperties"] = False
        if isinstance(made.get("pattern"), str):
            made["pattern"] = made["pattern"].removesuffix("$") + r"\Z"
        return made
    return [strict(each) for each in schema] if isinstance(schema, list) else schema


@cache
def validator(name: str) -> jsonschema.Draft4Validator:
    # Draft 4 is the one whose exclusive bounds are flags.
    return jsonschema.Draft4Validator(strict(of_spec(name)))


def schema_accepts(name: str, spec: Any) -> bool:
    return bool(validator(name).is_valid(spec))


def model_refuses(name: str, spec: Any) -> tuple[bool, bool]:
    """Whether the model refuses a field, and whether it refuses a rule, which a schema cannot."""
    try:
        SPECS[name].model_validate(spec)
    except ValidationError as refusal:
        kinds = {error["type"] for error in refusal.errors()}
        return bool(kinds - {"value_error"}), "value_error" in kinds
    return False, False


@pytest.mark.parametrize("case", [*BY_RULE, *BY_SCHEMA])
def test_schema_and_model_agree_on_known_cases(case: str) -> None:
    refused = (BY_RULE | BY_SCHEMA)[case]
    spec = {key: value for key, value in laid_over(PAIR, refused.over).items() if value is not None}
    by_key = case == "a pool's name twice"
    assert schema_accepts("modelservices", spec) == (case in BY_RULE or by_key)
    assert model_refuses("modelservices", spec) == (
        not (case in BY_RULE or by_key),
        case in BY_RULE or by_key,
    )


def values(schema: Schema) -> st.SearchStrategy[Any]:
    """Values that a schema allows, at its bounds most of all."""
    if schema.get("x-kubernetes-int-or-string"):
        low = schema["minimum"]
        return st.sampled_from([low, low + 1, "1", "512Mi", "1.5Gi", "40G"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            low, high = schema.get("minimum", -(2**31)), schema.get("maximum", 2**31 - 1)
            return st.sampled_from([low, high]) | st.integers(low, min(high, low + 8))
        case "number":
            low, high = schema.get("minimum", 0), schema.get("maximum", 1e6)
            return st.floats(
                low,
                high,
                exclude_min=schema.get("exclusiveMinimum", False),
                exclude_max=schema.get("exclusiveMaximum", False),
            )
        case "string":
            return texts(schema)
        case "array":
            sizes = {"min_size": schema.get("minItems", 0), "max_size": 3}
            return st.lists(values(schema["items"]), **sizes)
    return objects(schema)


def texts(schema: Schema) -> st.SearchStrategy[str]:
    size = schema.get("minLength", 0)
    if "pattern" in schema:
        short = st.from_regex(
            re.sub(r"\$$", r"\\Z", schema["pattern"]), alphabet=st.characters(codec="ascii")
        )
        return short.filter(lambda text: size <= len(text) <= schema.get("maxLength", 1000))
    return st.text(min_size=size, max_size=8)


@cache
def specs(name: str) -> st.SearchStrategy[dict[str, Any]]:
    return objects(of_spec(name))


def objects(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    if "properties" not in schema:
        below = schema.get("additionalProperties")
        inner = values(below) if below else st.integers() | st.text(max_size=4)
        return st.dictionaries(st.sampled_from(["cpu", "memory", "a/b"]), inner, max_size=2)
    required = schema.get("required", [])
    fields = {name: values(each) for name, each in schema["properties"].items()}
    return st.fixed_dictionaries(
        {name: fields[name] for name in required},
        optional={name: each for name, each in fields.items() if name not in required},
    )


@st.composite
def spoilt(draw: st.DrawFn, name: str) -> Any:
    """A spec that the schema allows, or one with something wrong at one place."""
    spec = draw(specs(name))
    if draw(st.booleans()):
        return spec
    path = draw(st.sampled_from([path for path, _ in leaves(spec)] or [()]))
    wrong = st.sampled_from(
        [-1, 0, 1.5, "", "A b", "x" * 600, True, [], {}, {"unknown": 1}, 10**10]
    )
    holder = found(spec, path[:-1])
    if path and draw(st.booleans()):
        holder[path[-1]] = draw(wrong)
    elif isinstance(holder, dict):
        holder["unknown"] = 1
    return spec


def agree(name: str, spec: Any) -> None:
    refuses_field, _ = model_refuses(name, spec)
    assert schema_accepts(name, spec) == (not refuses_field), spec


@given(spoilt("workerpools"))
def test_schema_and_model_agree_on_pools(spec: Any) -> None:
    agree("workerpools", spec)


@given(spoilt("modelservices"))
def test_schema_and_model_agree_on_services(spec: Any) -> None:
    agree("modelservices", spec)


def test_a_union_has_no_structural_form() -> None:
    class Either(BaseModel):
        value: int | str

    with pytest.raises(ValueError, match="a union has no structural schema"):
        structural(Either, defaults=True)
