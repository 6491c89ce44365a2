"""JSON Schema, as pydantic writes it, to the structural OpenAPI v3 schema that CRDs take.

What CRDs cannot have is spelled out or left to others: references are inlined, `null` is dropped
(the API server drops nulls before it looks for defaults), unknown fields are its own business
(`kubectl` refuses them, others have them pruned), and exclusive bounds are flags.
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_KEPT = (
    "type",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
)


def structural(model: type[BaseModel], *, defaults: bool) -> Schema:
    """The schema of a spec or status; `defaults` says whether the API server fills them in."""
    schema = model.model_json_schema(by_alias=True)
    return _Converter(schema.get("$defs", {}), defaults).convert(schema)


class _Converter:
    def __init__(self, definitions: Mapping[str, Schema], defaults: bool) -> None:
        self._definitions = definitions
        self._defaults = defaults

    def convert(self, schema: Schema) -> Schema:
        """One schema and all below it. Raises ValueError for what has no structural form."""
        schema = self._inlined(schema)
        known = {key: schema[key] for key in _KEPT if key in schema}
        extensions = {key: value for key, value in schema.items() if key.startswith("x-kubern")}
        made: Schema = {}
        if "description" in schema:
            made["description"] = " ".join(schema["description"].split())
        made |= known | extensions
        if "const" in schema:
            made["enum"] = [schema["const"]]
        for bound, name in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            if bound in schema:
                made |= {name: schema[bound], bound: True}
        if "anyOf" in schema:
            if "x-kubernetes-int-or-string" not in schema:
                raise ValueError(f"a union has no structural schema: {schema}")
            made["anyOf"] = schema["anyOf"]
        if "items" in schema:
            made["items"] = self.convert(schema["items"])
        if "properties" in schema:
            made["properties"] = {
                name: self.convert(each) for name, each in schema["properties"].items()
            }
        elif isinstance(schema.get("additionalProperties"), dict):
            made["additionalProperties"] = self.convert(schema["additionalProperties"])
        if self._defaults:
            made |= _default(schema)
        return made

    def _inlined(self, schema: Schema) -> Schema:
        """With its reference and its alternative `null` replaced; what stands beside them wins."""
        beside = {key: value for key, value in schema.items() if key not in ("$ref", "anyOf")}
        if "$ref" in schema:
            target = self._definitions[schema["$ref"].removeprefix("#/$defs/")]
            return self._inlined({**target, **beside})
        real = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
        if len(real) == 1:
            return self._inlined({**real[0], **beside})
        return schema


def _default(schema: Schema) -> Schema:
    """An object has all of it: rules are tried on it before its own fields are filled in.

    One whose fields have no defaults has {}, so that rules find it.
    """
    default = _without_nothing(schema.get("default"))
    is_object = "properties" in schema and schema.get("default") is not None
    return {"default": default} if default not in (None, [], {}) or is_object else {}


def _without_nothing(default: Any) -> Any:
    """Without nulls, empty lists and empty maps, which are no values to the API server."""
    if not isinstance(default, dict):
        return default
    kept = {name: _without_nothing(each) for name, each in default.items()}
    return {name: each for name, each in kept.items() if each not in (None, [], {})}
