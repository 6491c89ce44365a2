"""A user for each service in the bundled Redis, which can reach its own keys and nothing else.

The password follows from the operator's key and the service's UID, so that nothing has to be
kept: after a restart of Redis, which forgets its users, or of the operator, they are made again
alike. Users of services that are gone are removed.
"""

from __future__ import annotations

import asyncio
import logging

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from baton.core.redis_acl import acl_rules
from baton.telemetry.logging import event
from baton_operator.resources.internal_secret import derived
from baton_operator.resources.pods.store_login import bundled_user, key_prefix

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
PREFIX = bundled_user("")


class RedisUsers:
    """Keeps Redis's users equal to the services that want one; `run` until cancelled.

    It looks every `check_s`: so soon the users are back after Redis came back without them.
    """

    def __init__(self, url: str, key: bytes, check_s: float) -> None:
        self._check_s = check_s
        self._redis = Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            decode_responses=True,
            # The next look tries again.
            retry=Retry(NoBackoff(), 0),
        )
        self._key = key
        self._wanted: set[str] = set()
        # Made by this process, so with the rules of this version.
        self._made: set[str] = set()
        self._complete = False
        self._changed = asyncio.Event()

    def want(self, uid: str) -> None:
        """This service lives in the bundled store."""
        if uid not in self._wanted:
            self._wanted.add(uid)
            self._changed.set()

    def drop(self, uid: str) -> None:
        """This one is gone, or lives elsewhere now."""
        if uid in self._wanted:
            self._wanted.discard(uid)
            self._changed.set()

    def all_known(self) -> None:
        """From now on a user that no service wants belongs to one that was deleted."""
        self._complete = True
        self._changed.set()

    async def run(self) -> None:
        failing = False
        try:
            while True:
                self._changed.clear()
                try:
                    await self._bring_about()
                    failing = False
                except (RedisError, OSError) as error:
                    if not failing:
                        log.warning(*event("redis_users_not_kept", error=str(error)))
                    failing = True
                try:
                    async with asyncio.timeout(self._check_s):
                        await self._changed.wait()
                except TimeoutError:
                    pass
        finally:
            await self._redis.aclose()

    async def _bring_about(self) -> None:
        there = {str(user) for user in await self._redis.execute_command("ACL USERS")}
        for uid in sorted(self._wanted):
            if uid not in self._made or bundled_user(uid) not in there:
                await self._make(uid)
        if self._complete:
            for user in sorted(there):
                uid = user.removeprefix(PREFIX)
                if uid != user and uid not in self._wanted:
                    await self._redis.execute_command("ACL DELUSER", user)
                    self._made.discard(uid)
                    log.info(*event("redis_user_removed", user=user))

    async def _make(self, uid: str) -> None:
        password = derived(self._key, uid, "redis-password")
        rules = acl_rules(key_prefix(uid))
        await self._redis.execute_command(
            "ACL SETUSER", bundled_user(uid), "reset", "on", f">{password}", *rules
        )
        self._made.add(uid)
        log.info(*event("redis_user_made", user=bundled_user(uid)))
