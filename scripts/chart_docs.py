"""Write the chart's schema and README from its commented values.

`python scripts/chart_docs.py CHART [FOLDER]` writes `values.schema.json` and `README.md` into
FOLDER (by default the chart) from `values.yaml` and `README.in.md`. A value is described by the
comment above it that begins with `# --`; `# @schema {...}` adds JSON schema to what its default
says.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

TABLE = "@VALUES@\n"
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


class ChartDocsError(Exception):
    """The values cannot be documented; the message names the line."""


@dataclass(frozen=True)
class Value:
    """One key of the values: a group of others, or a leaf with a default."""

    path: tuple[str, ...]
    default: Any
    text: str
    extra: dict[str, Any]
    children: tuple[Value, ...]


def parse(text: str) -> tuple[Value, ...]:
    """The tree of `values.yaml`. Raises ChartDocsError for a value without a description."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ChartDocsError("the values are no mapping")
    return tuple(_values(root, (), text.splitlines()))


def _values(node: yaml.MappingNode, above: tuple[str, ...], lines: list[str]) -> Iterator[Value]:
    for key, child in node.value:
        path = (*above, key.value)
        comment, extra = _comment(lines, key.start_mark.line)
        # A described mapping is one value: its keys are the user's own.
        group = isinstance(child, yaml.MappingNode) and bool(child.value) and not comment
        if not comment and not group:
            raise ChartDocsError(f"line {key.start_mark.line + 1}: {'.'.join(path)} has no # --")
        yield Value(
            path=path,
            default=yaml.SafeLoader("").construct_object(child, deep=True),
            text=comment,
            extra=extra,
            children=tuple(_values(child, path, lines)) if group else (),
        )


def _comment(lines: list[str], at: int) -> tuple[str, dict[str, Any]]:
    """Description and schema in the comment that ends above line `at`."""
    start = at
    while start > 0 and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    words: list[str] = []
    extra: dict[str, Any] = {}
    for number, line in enumerate(lines[start:at], start + 1):
        text = line.strip().removeprefix("#").strip()
        if text.startswith("@schema"):
            try:
                extra = json.loads(text.removeprefix("@schema"))
            except ValueError as error:
                raise ChartDocsError(f"line {number}: {error}") from error
        elif text.startswith("--"):
            words = [text.removeprefix("--").strip()]
        elif words:
            words.append(text)
    return " ".join(words), extra


def schema(values: tuple[Value, ...]) -> dict[str, Any]:
    """JSON schema (draft 7, which both Helm majors read) that refuses unknown names."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **_object(values),
    }


def _object(values: tuple[Value, ...]) -> dict[str, Any]:
    properties = {value.path[-1]: _schema_of(value) for value in values}
    if values and len(values[0].path) == 1:
        # Helm hands it to every chart.
        properties["global"] = {"type": "object"}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _schema_of(value: Value) -> dict[str, Any]:
    if value.children:
        return _object(value.children)
    found: dict[str, Any] = {"description": value.text, "default": value.default}
    if isinstance(value.default, dict):
        found["type"] = "object"
    elif isinstance(value.default, list):
        found["type"] = "array"
    else:
        found["type"] = TYPES[type(value.default)]
    return {**found, **value.extra}


def table(values: tuple[Value, ...]) -> Iterator[str]:
    """Rows of the README, one for each leaf."""
    for value in values:
        if value.children:
            yield from table(value.children)
            continue
        default = json.dumps(value.default).replace("|", "\\|")
        text = value.text.replace("|", "\\|")
        yield f"| `{'.'.join(value.path)}` | `{default}` | {text} |\n"


def main() -> int:
    chart = Path(sys.argv[1])
    into = Path(sys.argv[2]) if len(sys.argv) > 2 else chart
    try:
        values = parse((chart / "values.yaml").read_text())
    except ChartDocsError as error:
        print(f"{chart / 'values.yaml'}: {error}", file=sys.stderr)
        return 1
    (into / "values.schema.json").write_text(json.dumps(schema(values), indent=2) + "\n")
    head = "| value | default | |\n|---|---|---|\n"
    page = (chart / "README.in.md").read_text()
    (into / "README.md").write_text(page.replace(TABLE, head + "".join(table(values))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
