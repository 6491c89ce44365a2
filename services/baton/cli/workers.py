"""`baton workers`"""

from __future__ import annotations

import json as json_module
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baton.cli.flags import CONFIG_HELP, reported_errors
from baton.cli.gateway_link import fetch
from baton.core import settings_loader

if TYPE_CHECKING:
    import httpx

# Columns of a terminal that shows everything.
WIDE = 110


def workers(
    url: Annotated[
        str | None,
        typer.Option("--url", help="The gateway's; by default where the settings put it."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    config: Annotated[Path | None, typer.Option("--config", help=CONFIG_HELP)] = None,
) -> None:
    """List the live workers: role, process, load, digest, transport."""
    with reported_errors():
        settings = settings_loader.load(config)
        found = fetch(settings, url, "/v1/baton/workers", _listed)
    if json:
        print(json_module.dumps(found))
    else:
        print_table(found)


def _listed(answer: httpx.Response) -> list[dict[str, Any]]:
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def print_table(found: list[dict[str, Any]]) -> None:
    """For people. Load is running+waiting sequences and KV blocks in use."""
    from rich.console import Console
    from rich.table import Table

    # Into a pipe nothing is cut.
    console = Console(width=None if sys.stdout.isatty() else 200)
    # What a narrow terminal has no room for; --json has it all.
    is_wide = console.width >= WIDE
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("ID", "ROLE", "STATE", "PID", "LOAD", "KV BLOCKS", "DIGEST", "LINKS"):
        table.add_column(column, no_wrap=True)
    if is_wide:
        for column in ("NODE", "EPOCH"):
            table.add_column(column, no_wrap=True)
    for worker in found:
        more = (worker["node"], worker["epoch"][:8]) if is_wide else ()
        table.add_row(
            worker["id"],
            worker["role"],
            worker["state"],
            str(worker["pid"]),
            *load_cells(worker["load"]),
            worker["digest"][:8],
            link_cell(worker),
            *more,
        )
    if not found:
        console.print("no workers")
        return
    console.print(table)
    for worker in found:
        if worker["reason"]:
            console.print(f"{worker['id']}: {worker['reason']}", markup=False)


# As a narrow table has room for.
_FABRICS = {"shared memory": "shm"}


def link_cell(worker: dict[str, Any]) -> str:
    """The transport and what carries its bytes to the peers that are up, most peers first."""
    fabrics = Counter(
        _FABRICS.get(link["fabric"], link["fabric"])
        for link in worker["links"]
        if link["is_up"] and link["fabric"]
    )
    return "/".join([worker["transport"], *(name for name, _ in fabrics.most_common())])


def load_cells(load: dict[str, Any]) -> tuple[str, str]:
    """Running+waiting sequences, and used/all KV blocks; dashes before the first report."""
    if "num_running" not in load:
        return "-", f"-/{load['num_blocks']}"
    used = load["num_blocks"] - load["free_blocks"]
    return f"{load['num_running']}+{load['num_waiting']}", f"{used}/{load['num_blocks']}"
