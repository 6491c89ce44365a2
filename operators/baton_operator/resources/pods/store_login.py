"""Where a service's workers are found: its address, its login, and the way there."""

from __future__ import annotations

from urllib.parse import urlsplit

from baton_operator import names
from baton_operator.resources.context import Context, Manifest
from baton_operator.types.storage import RedisSpec

URL_KEY = "redis-url"
"""In the service's own Secret: the bundled store's URL with the service's login."""
REDIS_PORT = 6379
SENTINEL_PORT = 26379


def key_prefix(uid: str) -> str:
    """Of all of a service's keys; by its UID, so that a successor of its name finds nothing."""
    return f"baton:{uid}"


def bundled_user(uid: str) -> str:
    """A service's user in the bundled Redis."""
    return f"baton-{uid}"


def bundled_url(context: Context, password: str) -> str:
    """The bundled Redis as the service's pods reach it."""
    user = bundled_user(context.service.uid)
    return f"redis://{user}:{password}@{context.installation.redis_address}/0"


def store_environment(context: Context) -> list[Manifest]:
    """What tells workers and gateways the store's address, and how to log in."""
    redis = context.spec.store.redis
    if redis is None:
        own = names.internal_secret(context.name, context.service.uid)
        return [_from_secret("BATON_STORE__URL", own, URL_KEY)]
    secret = redis.secret
    address = _address(redis)
    if address is None:
        assert secret is not None
        result = [_from_secret("BATON_STORE__URL", secret.name, "url")]
    else:
        result = [{"name": "BATON_STORE__URL", "value": address}]
    if secret is not None:
        # A Secret with a url may have the login in it. What is not optional holds pods back while
        # the Secret is missing, and says so in an event.
        in_url = address is None
        result += [
            _from_secret("BATON_STORE__USERNAME", secret.name, "username", optional=True),
            _from_secret("BATON_STORE__PASSWORD", secret.name, "password", optional=in_url),
        ]
    return result


def store_ports(context: Context) -> list[int] | None:
    """Ports that the store listens on; None: only the user's Secret knows.

    A Sentinel names the primary's port and a Cluster its nodes' when it is asked, so that those
    count as the usual ones.
    """
    redis = context.spec.store.redis
    if redis is None:
        address = context.installation.redis_address or ""
        return [_port(address, REDIS_PORT)]
    if redis.url is not None:
        return [urlsplit(redis.url).port or REDIS_PORT]
    if redis.sentinel is not None:
        ports = {_port(each, SENTINEL_PORT) for each in redis.sentinel.addresses}
        return sorted({*ports, REDIS_PORT})
    if redis.cluster is not None:
        return sorted({_port(each, REDIS_PORT) for each in redis.cluster.addresses})
    return None


def _address(redis: RedisSpec) -> str | None:
    """The URL without a login."""
    if redis.sentinel is not None:
        scheme = "rediss+sentinel" if redis.sentinel.tls else "redis+sentinel"
        hosts = ",".join(redis.sentinel.addresses)
        return f"{scheme}://{hosts}/{redis.sentinel.master}/{redis.sentinel.database}"
    if redis.cluster is not None:
        scheme = "rediss+cluster" if redis.cluster.tls else "redis+cluster"
        return f"{scheme}://{','.join(redis.cluster.addresses)}"
    return redis.url


def _from_secret(variable: str, secret: str, key: str, *, optional: bool = False) -> Manifest:
    reference: Manifest = {"name": secret, "key": key}
    if optional:
        reference["optional"] = True
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}


def _port(address: str, default: int) -> int:
    port = address.rpartition(":")[2]
    return int(port) if port.isdecimal() else default
