"""Keys and limits of a running gateway, and the guard in front of what is not an endpoint."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from starlette.types import Scope as AsgiScope
from starlette.types import Send

from baton.core.api_key import Scope
from baton.core.errors import BatonError, ForbiddenError
from baton.core.settings import GatewaySettings
from baton.gateway.http.asgi import Headers, response_headers, send_error
from baton.gateway.keys.audit import audit
from baton.gateway.keys.auth import Auth, is_loopback, require, warn_open
from baton.gateway.keys.caller import CALLER, Caller, caller_of
from baton.gateway.keys.key_ring import KeyRing
from baton.gateway.keys.limits import Limits
from baton.store.base import Store
from baton.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from baton.gateway.answer.base import Answer


INFERENCE = Scope.INFERENCE


class Access:
    """What a gateway has that may ask for keys."""

    def __init__(self, auth: Auth, limits: Limits, store: Store, metrics: Metrics) -> None:
        self.auth = auth
        self.limits = limits
        self.store = store
        self._metrics = metrics

    def enter(self, scope: AsgiScope, needed: Scope | None) -> Caller:
        """Who makes an HTTP request, also for `caller_of`. Raises BatonError, which is counted.

        Whoever shows a key is known to `caller_of` (and so to the audit) even when it is refused.
        """
        try:
            caller = scope[CALLER] = self.auth.identify(scope["headers"])
            self._check(caller, needed)
        except BatonError as error:
            self._metrics.key_refusals.labels(error.code).inc()
            raise
        return caller

    def identify(self, headers: Headers, needed: Scope | None) -> Caller:
        """Who shows these headers; as `enter`, for what is no HTTP request."""
        return self.enter({"headers": headers}, needed)

    def _check(self, caller: Caller, needed: Scope | None) -> None:
        require(caller, needed)
        if needed is INFERENCE:
            self.limits.precheck(caller)

    async def reserve(self, caller: Caller, headers: Headers, answer: Answer) -> None:
        """Room in the caller's limits, which `settle` gives back. Raises BatonError."""
        if caller.bounds:
            requests = [sink.request for sink in answer.sinks]
            answer.reservation = await self.limits.reserve_for(caller, headers, requests)

    async def guard(self, scope: AsgiScope, send: Send) -> bool:
        """Whether a request may go on; answers those that may not, and notes them for the audit."""
        needed = self.auth.needed(scope["method"], scope["path"])
        if needed == "open":
            return True
        try:
            self.enter(scope, needed)
        except BatonError as error:
            if isinstance(error, ForbiddenError):
                audit_call(scope, error.code)
            await send_error(send, error, response_headers(scope))
            return False
        return True


def audit_call(scope: AsgiScope, result: str, target: str = "") -> None:
    """Note a call that changes something, or that was not allowed to."""
    audit(
        caller_of(scope),
        scope["method"],
        target or scope["path"],
        result,
        scope["baton.request_id"],
    )


@contextlib.contextmanager
def audited(scope: AsgiScope) -> Iterator[None]:
    """Errors of a call are noted, apart from those of callers that nobody knows: whoever reaches a
    gateway must not be able to fill its audit log.
    """
    try:
        yield
    except BatonError as error:
        if caller_of(scope).key_id:
            audit_call(scope, error.code)
        raise


def settle(answer: Answer) -> None:
    """An answer is over: its caller's limits get what it did not use.

    One that failed without a token costs none; one that its client gave up costs its prompt.
    """
    reservation = answer.reservation
    if reservation is None:
        return
    num_tokens = answer.num_tokens
    if num_tokens or answer.error is None:
        num_tokens += sum(len(sink.request.prompt) for sink in answer.sinks)
    reservation.settle(num_tokens)


def shortage_of_keys(access: Access | None) -> str | None:
    """Why no request could be let in yet, or None."""
    return None if access is None else access.auth.shortage()


@contextlib.asynccontextmanager
async def open_access(
    store: Store, settings: GatewaySettings, metrics: Metrics
) -> AsyncIterator[Access | None]:
    """Keys and limits, running; None where nobody is ever asked for a key."""
    is_local = is_loopback(settings.host)
    if settings.auth == "off" or (settings.auth == "auto" and is_local):
        if not is_local:
            warn_open(settings.host)
        yield None
        return
    ring = KeyRing(store)
    auth = Auth(ring, always=settings.auth == "keys", metrics_need_key=settings.metrics_need_key)
    limits = Limits(store, settings, metrics)
    ring.start()
    limits.start()
    warning = asyncio.create_task(auth.warn_if_open(settings.host))
    try:
        yield Access(auth, limits, store, metrics)
    finally:
        warning.cancel()
        await limits.close()
        await ring.close()
