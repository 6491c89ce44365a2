"""`baton explain`"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from baton.cli.flags import CONFIG_HELP, reported_errors
from baton.cli.gateway_link import fetch
from baton.core import settings_loader
from baton.core.errors import BatonError

if TYPE_CHECKING:
    import httpx


def explain(
    request: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="An answer's `id`, or the `x-request-id` that came with it."
        ),
    ],
    url: Annotated[
        str | None,
        typer.Option("--url", help="Any gateway's; by default where the settings put it."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    config: Annotated[Path | None, typer.Option("--config", help=CONFIG_HELP)] = None,
) -> None:
    """Tell where a request's time went, and why it ran on those workers."""
    with reported_errors():
        settings = settings_loader.load(config)
        path = f"/v1/baton/requests/{quote(request, safe='')}"
        found = fetch(settings, url, path, _record)
    if json:
        print(json_module.dumps(found))
    else:
        from baton.cli.timeline import print_record

        print_record(found)


def _record(answer: httpx.Response) -> dict[str, Any]:
    """The gateway's own errors are for the caller."""
    document: dict[str, Any] = answer.json()
    if answer.is_error:
        raise BatonError(document["error"]["message"])
    if document["object"] != "baton.request":
        raise ValueError(f"it answers with {document['object']!r}")
    return document
