"""Where cached KV and discovery live: lower tiers of KV, the store."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from baton_operator.types.base import Part, Rule
from baton_operator.types.scalars import Name, Size

_HOST = r"([A-Za-z0-9]([-.A-Za-z0-9]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
_PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
URL_PATTERN = rf"^rediss?://([^/@\s]*@)?{_HOST}(:{_PORT})?(/[0-9]*)?$"
Address = Annotated[
    str, StringConstraints(pattern=rf"^{_HOST}:{_PORT}$", min_length=3, max_length=262)
]
"""HOST:PORT."""


class DiskTier(Part):
    """A volume of each pod for KV blocks."""

    size: Size
    """Room on the disk of each worker."""
    storage_class_name: Name | None = None
    """StorageClass of a volume made for each pod; unset takes the node's disk."""


class TiersSpec(Part):
    """Copies of cached KV blocks below the GPU's memory."""

    host_memory: Size | None = None
    """Memory of the node, for each worker, on top of what its container needs; unset keeps none."""
    disk: DiskTier | None = None
    """Disk for each worker; unset keeps none."""


class Sentinel(Part):
    """A Redis that Sentinels watch over."""

    master: Annotated[
        str, StringConstraints(pattern=r"^[-_.A-Za-z0-9]+$", min_length=1, max_length=128)
    ]
    """Name of the master group."""
    addresses: Annotated[list[Address], Field(min_length=1, max_length=16)]
    """HOST:PORT of the Sentinels."""
    database: int = Field(0, ge=0, le=1023)
    """Number of the database."""
    tls: bool = False
    """Whether Redis and Sentinels speak TLS."""


class Cluster(Part):
    """A Redis Cluster."""

    addresses: Annotated[list[Address], Field(min_length=1, max_length=64)]
    """HOST:PORT of some of its nodes; the others are found."""
    tls: bool = False
    """Whether its nodes speak TLS."""


class RedisSecret(Part):
    """A Secret of this namespace with how to log in. Only pods read it, the operator never does."""

    name: Name
    """Name of the Secret. Keys: password, username (absent: the default user), and url where none
    of url, sentinel and cluster is given here."""


class RedisSpec(Part):
    """A Redis of yours."""

    url: Annotated[str, StringConstraints(pattern=URL_PATTERN, max_length=512)] | None = None
    """redis://HOST:PORT/DB, or rediss:// for TLS, without a password: that is for the Secret."""
    sentinel: Sentinel | None = None
    """Instead of url: Sentinels that know the master."""
    cluster: Cluster | None = None
    """Instead of url: nodes of a Redis Cluster."""
    secret: RedisSecret | None = None
    """How to log in; unset logs in nowhere."""

    rules = (
        Rule(
            "!has(self.url) || !self.url.contains('@')",
            "store.redis.url: everybody may read a ModelService; put user and password into a "
            "Secret and name it in store.redis.secret",
            lambda r: r.url is None or "@" not in r.url,
        ),
        Rule(
            "[has(self.url), has(self.sentinel), has(self.cluster)].filter(given, given).size() "
            "<= 1",
            "store.redis: keep one of url, sentinel and cluster",
            lambda r: sum(way is not None for way in (r.url, r.sentinel, r.cluster)) <= 1,
        ),
        Rule(
            "has(self.url) || has(self.sentinel) || has(self.cluster) || has(self.secret)",
            "store.redis: give url, sentinel or cluster, or a secret whose key url says it; remove "
            "redis to use the bundled one",
            lambda r: any(way is not None for way in (r.url, r.sentinel, r.cluster, r.secret)),
        ),
    )


class StoreSpec(Part):
    """Where workers are found, and counters of limits kept."""

    redis: RedisSpec | None = None
    """A Redis of yours; unset uses the one that the chart brings."""

    @property
    def bundled(self) -> bool:
        """Whether the chart's Redis is used."""
        return self.redis is None
