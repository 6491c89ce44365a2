"""From a URL to a store."""

from __future__ import annotations

import logging
import re

from baton.core.errors import ConfigError
from baton.core.redact import redact_url
from baton.store.base import Store, StoreUnavailableError
from baton.store.embedded import EmbeddedStore
from baton.store.redis import RedisStore
from baton.telemetry.logging import event

log = logging.getLogger(__name__)

_GRPC_URL = re.compile(r"grpc://(\[[0-9A-Fa-f:.]+\]|[^\s/:@]+):[0-9]{1,5}/?")


def open_store(url: str, token: str, prefix: str) -> Store:
    """The store at `url`, which is not contacted yet. Raises ConfigError for other URLs."""
    scheme = url.partition("://")[0]
    if scheme == "grpc":
        if _GRPC_URL.fullmatch(url) is None:
            raise ConfigError(f"store.url {url!r}: expected grpc://HOST:PORT")
        return EmbeddedStore(url, token, prefix)
    if scheme in ("redis", "rediss", "unix"):
        return RedisStore(url, prefix)
    raise ConfigError(
        f"store.url {redact_url(url)!r}: expected grpc://HOST:PORT, redis://HOST:PORT/DB or "
        "rediss://HOST:PORT/DB" + (_EMBEDDED if url == "embedded" else "")
    )


_EMBEDDED = "; only the first gateway has the embedded store, it prints the address for the others"


async def connect(url: str, token: str, prefix: str) -> Store:
    """The store at `url`, asked once.

    One that does not answer is logged, not an error: it may come later. Raises ConfigError for a
    wrong URL and UnauthenticatedError when the store refuses the token or password.
    """
    store = open_store(url, token, prefix)
    try:
        await store.get("ping")
    except StoreUnavailableError as error:
        log.warning(*event("store_down", url=redact_url(url), error=error))
    except BaseException:
        await store.close()
        raise
    return store
