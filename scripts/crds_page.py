"""Write the page about the fields of the CRDs: `python scripts/crds_page.py FILE`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from baton_operator.crds.definitions import definitions

HEAD = """# Fields of ModelService and WorkerPool

What `kubectl explain bms.spec` tells. Unknown fields are refused by `kubectl apply`; what breaks a
rule below is refused by the API server in the rule's words. [deploy/examples](../deploy/examples)
shows the fields in use.

This page is generated from `operators/baton_operator/types` by `make crds`.
"""
Schema = dict[str, Any]


def rows(schema: Schema, path: str) -> Iterator[str]:
    """A row for each field below `path`; those of a list's items have [] in their path."""
    required = schema.get("required", [])
    for name, field in schema["properties"].items():
        here = f"{path}.{name}"
        text = field["description"].replace("|", "\\|")
        yield f"| `{here}` | {kind(field)} | {default(field, name in required)} | {text} |"
        items = field.get("items", {})
        if "properties" in field:
            yield from rows(field, here)
        elif "properties" in items:
            yield from rows(items, f"{here}[]")


def kind(field: Schema) -> str:
    """How a reader would say the type."""
    if "enum" in field:
        return " \\| ".join(f"`{value}`" for value in field["enum"])
    if "x-kubernetes-int-or-string" in field:
        return "quantity"
    if field["type"] == "array":
        return "list"
    if "additionalProperties" in field:
        return "map"
    return {"string": "text", "boolean": "true or false"}.get(field["type"], field["type"])


def default(field: Schema, required: bool) -> str:
    """Of an object, each field says its own."""
    if required:
        return "required"
    value = field.get("default")
    if value is None or "properties" in field:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def rules(schema: Schema) -> Iterator[str]:
    """What breaks a rule, by its message."""
    yield from (f"- {each['message']}" for each in schema.get("x-kubernetes-validations", []))
    for field in schema.get("properties", {}).values():
        yield from rules(field)
    if "items" in schema:
        yield from rules(schema["items"])


def page() -> Iterator[str]:
    yield HEAD
    for definition in definitions().values():
        version = definition["spec"]["versions"][0]
        schema = version["schema"]["openAPIV3Schema"]
        yield f"## {definition['spec']['names']['kind']}\n\n{schema['description']}\n"
        for part in ("spec", "status"):
            yield f"### {part}\n\n| field | type | default | |\n|---|---|---|---|"
            yield from rows(schema["properties"][part], part)
            yield ""
        yield "### Rules\n"
        yield from rules(schema)
        yield ""


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("\n".join(page()).rstrip() + "\n")
