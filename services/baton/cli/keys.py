"""`baton keys`: API keys and tenants, straight in the store, with the deployment's token."""

from __future__ import annotations

import asyncio
import getpass
import json as json_module
import re
import sys
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from baton.cli.flags import CONTROL, with_settings
from baton.cli.store_address import named_store
from baton.core.api_key import Scope
from baton.core.errors import ConfigError
from baton.core.settings import Settings
from baton.telemetry.deployment_tls import use_tls

if TYPE_CHECKING:
    from baton.gateway.keys.stored import KeyLimits
    from baton.store.base import Store

T = TypeVar("T")

app = typer.Typer(
    help="Make, list and revoke API keys, and set the limits of tenants.", no_args_is_help=True
)

_UNITS_S = {"m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([1-9][0-9]{0,8})([mhd])")


class BudgetPeriod(StrEnum):
    """When a budget begins anew, by UTC."""

    TOTAL = "total"
    MONTH = "month"
    DAY = "day"


Tenant = Annotated[str, typer.Option("--tenant", help="Whose key it is.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Rpm = Annotated[int | None, typer.Option("--rpm", min=0, help="Requests a minute.")]
Tpm = Annotated[int | None, typer.Option("--tpm", min=0, help="Tokens a minute.")]
Concurrent = Annotated[int | None, typer.Option("--concurrent", min=0, help="Requests at once.")]
Budget = Annotated[int | None, typer.Option("--budget", min=0, help="Tokens in --budget-period.")]
Period = Annotated[
    BudgetPeriod | None, typer.Option("--budget-period", help="When a budget begins anew (UTC).")
]


@app.command("create")
@with_settings(CONTROL)
def create(
    settings: Settings,
    name: Annotated[str, typer.Option("--name", help="For people.")] = "",
    tenant: Tenant = "default",
    scope: Annotated[
        list[Scope] | None,
        typer.Option("--scope", help="What it is for; may be repeated (default: inference)."),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="AGE", help="Valid for so long: 90d, 12h or 30m."),
    ] = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    concurrent: Concurrent = None,
    budget: Budget = None,
    budget_period: Period = None,
    json: Json = False,
) -> None:
    """Make an API key and print it, this once. Gateways know it within about a second."""
    from baton.gateway.keys.admin import create_key, key_document

    limits = _limits(rpm, tpm, concurrent, budget, budget_period)
    now = time.time()
    key, record = _run(
        settings,
        lambda store: create_key(
            store,
            name=name,
            tenant=tenant,
            scopes=frozenset(scope or (Scope.INFERENCE,)),
            limits=limits,
            expires=None if expires is None else now + _seconds(expires),
            created_by=_me(),
        ),
    )
    if json:
        print(json_module.dumps({**key_document(record, now), "key": key}))
        return
    # The key alone on standard output: KEY=$(baton keys create).
    print(
        f"API key {record.id} of tenant {record.tenant}; it is not shown again. Gateways on "
        "loopback ask for keys only with --auth keys.",
        file=sys.stderr,
    )
    print(key)


@app.command("list")
@with_settings(CONTROL)
def list_(settings: Settings, json: Json = False) -> None:
    """List the API keys: id, tenant, scopes, state, limits. Never the keys themselves."""
    from baton.gateway.keys.admin import key_document, list_keys

    now = time.time()
    found = [key_document(record, now) for record in _run(settings, list_keys)]
    if json:
        print(json_module.dumps(found))
    elif not found:
        print("no API keys")
    else:
        _print_table(found)


@app.command("revoke")
@with_settings(CONTROL)
def revoke(
    settings: Settings,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Its id in `baton keys list`.")],
) -> None:
    """End an API key. Gateways refuse it within about a second; running requests go on."""
    from baton.gateway.keys.admin import revoke_key

    # People paste whole keys, too.
    short = key_id.removeprefix("sk-baton-").partition("-")[0]
    record = _run(settings, lambda store: revoke_key(store, short, _me()))
    print(f"API key {record.id} is revoked")


@app.command("tenant")
@with_settings(CONTROL)
def tenant_(
    settings: Settings,
    name: Annotated[str, typer.Argument(metavar="TENANT", help="Made when there is none.")],
    rpm: Rpm = None,
    tpm: Tpm = None,
    concurrent: Concurrent = None,
    budget: Budget = None,
    budget_period: Period = None,
    json: Json = False,
) -> None:
    """Set limits that all keys of a tenant share; 0 takes one away. Without options: show them."""
    from baton.gateway.keys.admin import change_tenant, tenant_document

    given = {"rpm": rpm, "tpm": tpm, "concurrent": concurrent, "budget": budget}
    limits: dict[str, Any] = {k: v or None for k, v in given.items() if v is not None}
    if budget_period is not None:
        limits["budget_period"] = budget_period.value
    record = _run(settings, lambda store: change_tenant(store, name, limits))
    document = tenant_document(record)
    print(json_module.dumps(document) if json else f"{name}: {_shown(document['limits'])}")


def _run(settings: Settings, work: Callable[[Store], Awaitable[T]]) -> T:
    """Do something with the deployment's store."""
    from baton.cli.token_file import deployment_token
    from baton.store.connect import open_store

    url = named_store(settings)
    token, _ = deployment_token(settings)
    use_tls(settings.tls)

    async def run() -> T:
        store = open_store(url, token, settings.store.key_prefix)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def _limits(
    rpm: int | None,
    tpm: int | None,
    concurrent: int | None,
    budget: int | None,
    period: BudgetPeriod | None,
) -> KeyLimits:
    from pydantic import ValidationError

    from baton.gateway.keys.stored import KeyLimits, problem

    try:
        return KeyLimits(
            rpm=rpm or None,
            tpm=tpm or None,
            concurrent=concurrent or None,
            budget=budget or None,
            budget_period=(period or BudgetPeriod.TOTAL).value,
        )
    except ValidationError as error:
        raise problem(error) from None


def _seconds(age: str) -> int:
    match = _DURATION.fullmatch(age)
    if match is None:
        raise ConfigError(f"--expires {age!r}: expected a number and m, h or d, as 90d")
    return int(match[1]) * _UNITS_S[match[2]]


def _me() -> str:
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):
        return "cli"


def _shown(limits: dict[str, Any]) -> str:
    """Limits in a few words."""
    names = {"rpm": "requests/min", "tpm": "tokens/min", "concurrent": "at once"}
    words = [f"{limits[name]} {text}" for name, text in names.items() if limits[name]]
    if limits["budget"]:
        period = limits["budget_period"]
        words.append(f"{limits['budget']} tokens " + ("in all" if period == "total" else period))
    return ", ".join(words) or "no limits"


def _print_table(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    # Into a pipe nothing is cut.
    console = Console(width=None if sys.stdout.isatty() else 200)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("ID", "NAME", "TENANT", "SCOPES", "STATE", "CREATED", "EXPIRES", "LIMITS"):
        table.add_column(column, no_wrap=column != "LIMITS")
    for key in found:
        table.add_row(
            key["id"],
            key["name"],
            key["tenant"],
            ",".join(key["scopes"]),
            key["state"],
            _date(key["created"]),
            _date(key["expires"]),
            _shown(key["limits"]),
        )
    console.print(table)


def _date(instant: float | None) -> str:
    return "-" if instant is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(instant))
