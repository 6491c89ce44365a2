"""Where the deployment's store is, for commands that need one that runs already."""

from __future__ import annotations

from baton.core.errors import ConfigError
from baton.core.settings import Settings
from baton.core.store_url import EMBEDDED


def named_store(settings: Settings) -> str:
    """The store's URL. Raises ConfigError where none is named: the embedded one is a gateway's."""
    if settings.store.url == EMBEDDED:
        raise ConfigError(
            "--store is missing: give the address that `baton gateway` or `baton serve` printed"
        )
    return settings.store.url
