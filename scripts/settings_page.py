"""Write the settings page from the settings tree: `python scripts/settings_page.py FILE`."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from baton.core.settings import Settings

HEAD = """# Settings

One tree. A flag wins over the environment, the environment over the file of `--config`, and that
over the default. `baton config` prints the tree in effect. Unknown names are errors.

In the environment a name is `BATON_` and the path with `__` between: `BATON_GATEWAY__PORT=8001`.
In the file it is YAML:

```yaml
gateway:
  port: 8001
```

This page is generated from `services/baton/core/settings.py` by `make docs`.
"""


def type_name(annotation: Any) -> str:
    """How a reader would say the type."""
    origin = get_origin(annotation)
    if origin is Literal:
        return " \\| ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " \\| ".join(type_name(a) for a in get_args(annotation) if a is not type(None))
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}.get(
        annotation.__name__, annotation.__name__.lower()
    )


def default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return "" if value is None else f"`{str(value).lower() if value in (True, False) else value}`"


def row(path: str, field: FieldInfo) -> str:
    text = " ".join((field.description or "").split()).replace("|", "\\|")
    return f"| `{path}` | {type_name(field.annotation)} | {default(field)} | {text} |"


def page() -> Iterator[str]:
    yield HEAD
    top = {}
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if not (isinstance(group, type) and issubclass(group, BaseModel)):
            top[name] = field
            continue
        yield f"## {name}\n\n{(group.__doc__ or '').strip()}\n"
        yield "| setting | type | default | |\n|---|---|---|---|"
        for child, info in group.model_fields.items():
            yield row(f"{name}.{child}", info)
        yield ""
    yield "## Top level\n\n| setting | type | default | |\n|---|---|---|---|"
    for name, field in top.items():
        yield row(name, field)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("\n".join(page()) + "\n")
