"""From a URL to a client of redis-py: one server, a primary behind Sentinels, or a Cluster.

Nothing is tried twice: a step of a limit that was sent again could count twice. A client that loses
its server finds the next primary with its next call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from baton.core.store_url import RedisGroup, is_group, parse_group

# Of the time that a call may take, what one member of a group may take of it: the next one that is
# asked has to have time left.
MEMBER_SHARE = 0.4
SENTINEL_SHARE = 0.2


class Connected(NamedTuple):
    """A client, which connects when it is used, and all that has to be closed in the end."""

    client: Redis | RedisCluster
    closed_with: Sequence[Redis] = ()

    async def close(self) -> None:
        """Of all connections, whatever closing another one says. No call may be under way."""
        closings: list[Awaitable[None]] = [one.aclose() for one in (self.client, *self.closed_with)]
        if isinstance(self.client, RedisCluster):
            # Having lost a node, it closes nothing by itself until it has found the nodes again.
            nodes = [*self.client.get_nodes(), *self.client.nodes_manager.startup_nodes.values()]
            closings += [node.disconnect() for node in nodes]
        for closing in closings:
            with suppress(RedisError, OSError):
                await closing


def connected(url: str, timeout_s: float) -> Connected:
    """Raises ValueError or TypeError for a URL that makes no sense."""
    if not is_group(url):
        client = Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=_once()
        )
        return Connected(client)
    group = parse_group(url)
    if group.kind == "sentinel":
        return _behind_sentinels(group, timeout_s)
    return Connected(_of_cluster(group, timeout_s))


def _behind_sentinels(group: RedisGroup, timeout_s: float) -> Connected:
    """A client of whoever is the primary when it connects."""
    tls: dict[str, Any] = {"ssl": True, **group.options} if group.is_tls else {}
    sentinel = Sentinel(
        list(group.addresses),
        sentinel_kwargs={
            **tls,
            "username": group.sentinel_username,
            "password": group.sentinel_password,
            **_timeouts(timeout_s * SENTINEL_SHARE),
        },
    )
    client: Redis = sentinel.master_for(
        group.master,
        username=group.username,
        password=group.password,
        db=group.db,
        **tls,
        **_timeouts(timeout_s * MEMBER_SHARE),
    )
    return Connected(client, sentinel.sentinels)


def _of_cluster(group: RedisGroup, timeout_s: float) -> RedisCluster:
    options: dict[str, Any] = {"ssl": True, **group.options} if group.is_tls else {}
    return RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in group.addresses],
        username=group.username,
        password=group.password,
        **options,
        **_timeouts(timeout_s * MEMBER_SHARE),
    )


def _timeouts(timeout_s: float) -> dict[str, Any]:
    return {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "retry": _once()}


def _once() -> Retry:
    return Retry(NoBackoff(), 0)
