"""From a URL to a store."""

from __future__ import annotations

import logging

from baton.core.errors import ConfigError
from baton.core.redact import redact_url
from baton.core.store_url import EMBEDDED, check_store_url
from baton.store.base import Outage, Store, StoreRefusesError, StoreUnavailableError
from baton.store.embedded import EmbeddedStore
from baton.store.redis import RedisStore

log = logging.getLogger(__name__)


def open_store(url: str, token: str, prefix: str, lasting_ttl_s: float | None = None) -> Store:
    """The store at `url`, which is not contacted yet. Raises ConfigError for other URLs.

    `lasting_ttl_s` is for Redis, see `RedisStore`.
    """
    try:
        check_store_url(url)
    except ValueError as error:
        raise ConfigError(f"store.url = {redact_url(url)!r}: {error}") from None
    if url == EMBEDDED:
        raise ConfigError(
            "store.url = 'embedded': only the first gateway has the embedded store; it prints the "
            "address for the others"
        )
    if url.startswith("grpc://"):
        return EmbeddedStore(url, token, prefix)
    return RedisStore(url, prefix, lasting_ttl_s=lasting_ttl_s)


async def connect(url: str, token: str, prefix: str, lasting_ttl_s: float | None = None) -> Store:
    """The store at `url`, asked once.

    One that does not answer is logged, not an error: it may come later. Raises ConfigError for a
    wrong URL and StoreRefusesError when the store refuses the token, user or password.
    """
    store = open_store(url, token, prefix, lasting_ttl_s)
    try:
        await store.get("ping")
    except StoreRefusesError:
        await store.close()
        raise
    except StoreUnavailableError as error:
        Outage(log, redact_url(url)).failed(error)
    except BaseException:
        await store.close()
        raise
    return store
