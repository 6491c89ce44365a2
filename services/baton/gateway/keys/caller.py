"""Who makes a call, as its API key says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from starlette.types import Scope as AsgiScope

from baton.core.api_key import Scope
from baton.store.limits import Limit


class Counted(StrEnum):
    """What a bound counts; also how errors and metrics name it."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENT = "concurrent_requests"
    BUDGET = "budget"


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit of a key or a tenant. `whose` is for people; a budget's name lacks its period."""

    limit: Limit
    counted: Counted
    whose: str
    period: str = ""


@dataclass(frozen=True, slots=True)
class Caller:
    """`key_id` and `tenant` are empty for anybody without a key. `expires` is a Unix time."""

    key_id: str = ""
    tenant: str = ""
    salt: str = ""
    scopes: frozenset[Scope] = frozenset()
    expires: float | None = None
    bounds: tuple[Bound, ...] = ()

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or (scope is Scope.READ and Scope.ADMIN in self.scopes)

    def tenant_salt(self, cache_salt: str) -> str:
        """What its prompts' block hashes begin with: no prefix is shared with another tenant.

        A tenant's salt has a fixed length, so no `cache_salt` of another one makes up for it.
        """
        if not self.salt:
            return cache_salt
        return f"{self.salt}:{cache_salt}" if cache_salt else self.salt


CALLER = "baton.caller"
"""Key of the ASGI scope under which a request's Caller is left."""

ANYBODY = Caller(scopes=frozenset(Scope))
"""Whoever calls a gateway that asks for no keys."""


def caller_of(scope: AsgiScope) -> Caller:
    """Who makes an HTTP request, once its key was checked."""
    caller: Caller = scope.get(CALLER, ANYBODY)
    return caller
