"""The service's own Secret: made from the operator's key and the service's UID, never read.

So the operator can write it again whenever it likes and needs no permission to see any Secret, and
two services never share a token or a password.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from typing import Literal

from baton_operator import names
from baton_operator.resources.context import Context, Manifest
from baton_operator.resources.metadata import metadata
from baton_operator.resources.pods.store_login import URL_KEY, bundled_url

Purpose = Literal["token", "ray-token", "redis-password"]


def derived(key: bytes, uid: str, purpose: Purpose) -> str:
    """A secret of one service for one purpose, as 64 hexadecimal digits.

    HMAC-SHA256 over purpose and UID: of one of them nothing follows about another, or the key.
    """
    return hmac.new(key, f"{purpose}/{uid}".encode(), hashlib.sha256).hexdigest()


def internal_secret(context: Context) -> Manifest:
    """Keys: `token` between gateways and workers, `ray-token` inside a worker, and, with the
    bundled store, `redis-url` with the service's user there.
    """
    key, uid = context.installation.key, context.service.uid
    name = names.internal_secret(context.name, uid)
    data = {
        "token": derived(key, uid, "token"),
        "ray-token": derived(key, uid, "ray-token"),
    }
    if context.spec.store.bundled and context.installation.redis_address:
        password = derived(key, uid, "redis-password")
        data[URL_KEY] = bundled_url(context, password)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(context, name, "gateway"),
        "type": "Opaque",
        "data": {name: b64encode(value.encode()).decode() for name, value in data.items()},
    }
