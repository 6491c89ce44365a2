"""What a Redis user of one deployment has to be allowed, and no more.

Whoever makes the user (the operator, for a Redis that it runs) sends

    ACL SETUSER <name> reset on ><password> <each of `acl_rules(key_prefix)`>

`tests/faults/test_redis_acl.py` runs the store's whole suite as such a user.
"""

from __future__ import annotations

COMMANDS = (
    # Entries, their index, documents and limits; scripts need each command that they call.
    "get",
    "set",
    "del",
    "exists",
    "incr",
    "pexpire",
    "persist",
    "zadd",
    "zrem",
    "zrange",
    "zcard",
    "zscore",
    "zrangebylex",
    "zremrangebyscore",
    "time",
    "evalsha",
    "script|load",
    # Watches.
    "publish",
    "subscribe",
    "unsubscribe",
    # The client, as it connects. (That CLIENT SETINFO is refused, it ignores: Redis before 7.2 has
    # no such command, and takes no rule with a name that it does not know.)
    "ping",
    "select",
)
"""Of one server, or of a primary behind Sentinels."""

CLUSTER_COMMANDS = ("cluster|slots", "cluster|shards", "cluster|nodes", "command", "asking")
"""What a client of a Redis Cluster needs besides: the map of its slots."""


def cluster_tag(key_prefix: str) -> str:
    """What keys begin with in a Redis Cluster: all of a deployment's are in one slot, as its
    scripts demand.
    """
    return f"{{{key_prefix}}}"


def acl_rules(key_prefix: str, *, cluster: bool = False) -> tuple[str, ...]:
    """Rules for ACL SETUSER: the deployment's keys and channel, and the commands for them.

    `key_prefix` as in the setting `store.key_prefix`, whose characters mean nothing in a pattern.
    """
    start = cluster_tag(key_prefix) if cluster else key_prefix
    commands = (*COMMANDS, *CLUSTER_COMMANDS) if cluster else COMMANDS
    return (f"~{start}:*", f"&{start}:*", "-@all", *(f"+{command}" for command in commands))
