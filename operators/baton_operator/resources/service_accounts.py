"""ServiceAccounts of gateways and workers: names for policies, without any access to the API."""

from __future__ import annotations

from baton_operator import names
from baton_operator.resources.context import Context, Manifest
from baton_operator.resources.metadata import metadata


def service_accounts(context: Context) -> list[Manifest]:
    """One for gateways, one for workers and what fetches their model."""
    return [
        _account(context, names.gateway(context.name), "gateway"),
        _account(context, names.workers(context.name), "worker"),
    ]


def _account(context: Context, name: str, component: names.Component) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(context, name, component),
        "automountServiceAccountToken": False,
    }
