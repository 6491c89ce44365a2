"""`baton version`"""

from __future__ import annotations

import json as json_module
import platform
from importlib import metadata
from typing import Annotated

import typer

import baton

_SHOWN = ("torch", "ray", "nixl", "grpcio")


def version(
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Print the versions of Baton and of what it stands on."""
    versions = {"baton": baton.__version__, "python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in _SHOWN}
    if json:
        print(json_module.dumps(versions))
    else:
        print("\n".join(f"{name} {number}" for name, number in versions.items()))
