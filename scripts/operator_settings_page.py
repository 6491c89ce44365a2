"""Write the page of the operator's settings: `python scripts/operator_settings_page.py FILE`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from settings_page import default, type_name

from baton_operator.settings import ENV_PREFIX, OperatorSettings

HEAD = """# Settings of the operator

They come from the environment of its pod, where the chart puts them from its values
(`operator.extraEnv` for those without a value of their own). Unknown names that begin with
`BATON_OPERATOR_` are errors. What a service is like stands in its ModelService.

This page is generated from `operators/baton_operator/settings.py` by `make docs`.

| variable | type | default | |
|---|---|---|---|"""


def row(name: str, field: FieldInfo) -> str:
    text = " ".join((field.description or "").split()).replace("|", "\\|")
    kind = type_name(field.annotation).replace(SecretStr.__name__.lower(), "secret text")
    return f"| `{ENV_PREFIX}{name.upper()}` | {kind} | {_default(field)} | {text} |"


def page() -> Iterator[str]:
    yield HEAD
    for name, field in OperatorSettings.model_fields.items():
        yield row(name, field)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    # One that is made anew for each process is in the text.
    return "" if field.default_factory is not None else default(field)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("\n".join(page()) + "\n")
