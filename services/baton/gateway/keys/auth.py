"""Who may call: API keys on HTTP and gRPC, and which scope each path needs.

A key comes as `Authorization: Bearer KEY`, or as `x-api-key: KEY`, which Anthropic's SDK sends. It
is checked before anything else of a request is read: a wrong one costs a hash and the refusal.
There is no throttle by address: 256 random bits are not guessed, and a 429 would only make
well-behaved clients with a wrong key try again.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable
from typing import Literal

from baton.core.api_key import Scope
from baton.core.errors import ForbiddenError, InvalidKeyError, UnavailableError
from baton.gateway.keys.caller import ANYBODY, Caller
from baton.gateway.keys.key_ring import KeyRing
from baton.telemetry.logging import event

log = logging.getLogger(__name__)

_NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header "
    "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
)
# Paths that need no key: what load balancers, kubelets and schema readers ask.
_OPEN = frozenset({"/health", "/ready", "/openapi.json"})
_METRICS = "/metrics"
# For whoever has a key.
_MODELS = "/v1/models"
_BATON = "/v1/baton/"
# Below /v1/baton/, but for applications.
_PREFETCH = "/v1/baton/prefetch"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def warn_open(host: str) -> None:
    """Say loudly that a network may use the gateway without keys."""
    log.warning(
        *event(
            "open_to_the_network",
            host=host,
            hint="anybody who reaches it may use it: make a key with `baton keys create`, or ask "
            "for keys with --auth keys",
        )
    )


def require(caller: Caller, scope: Scope | None) -> None:
    """Raises ForbiddenError unless the caller may use `scope` (None: any key will do)."""
    if scope is not None and not caller.may(scope):
        raise ForbiddenError(
            "You have insufficient permissions for this operation. Missing scopes: "
            f"{scope.value}. This API key has: {', '.join(sorted(caller.scopes))}."
        )


class Auth:
    """Decides whether keys are asked for (`always`, or once there are some), and whose they are."""

    def __init__(self, ring: KeyRing, *, always: bool, metrics_need_key: bool = False) -> None:
        self.ring = ring
        self._always = always
        self._metrics_need_key = metrics_need_key
        # Once there were keys, taking the last one away must not open the gateway.
        self._had_keys = False

    @property
    def is_on(self) -> bool:
        """Whether a call needs a key. Raises UnavailableError while that is not known yet."""
        if self._had_keys:
            return True
        if not self.ring.synced.is_set():
            raise UnavailableError("the gateway does not know its API keys yet: is its store up?")
        self._had_keys = len(self.ring) > 0
        return self._had_keys or self._always

    def shortage(self) -> str | None:
        """Why no call could be let in now, or None."""
        try:
            self.is_on  # noqa: B018 - it raises
        except UnavailableError as error:
            return error.message
        return None

    def identify(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """Who calls. Raises InvalidKeyError, UnavailableError."""
        if not self.is_on:
            return ANYBODY
        key = b""
        for name, value in headers:
            if name == b"authorization":
                if value[:7].lower() == b"bearer ":
                    key = value[7:].strip()
                    break
            elif name == b"x-api-key":
                key = value
        if not key:
            raise InvalidKeyError(_NO_KEY)
        return self.ring.caller(key)

    def needed(self, method: str, path: str) -> Scope | Literal["open"] | None:
        """The scope that a call of a path needs; None for any key, "open" for no key at all."""
        if path in _OPEN or (path == _METRICS and not self._metrics_need_key):
            return "open"
        if path == _METRICS:
            return Scope.READ
        if path.startswith(_BATON) and path != _PREFETCH:
            return Scope.READ if method in ("GET", "HEAD") else Scope.ADMIN
        is_list = path == _MODELS or path.startswith(_MODELS + "/")
        return None if is_list else Scope.INFERENCE

    async def warn_if_open(self, host: str) -> None:
        """Once the keys are known: `warn_open`, if there are none and none is asked for."""
        await self.ring.synced.wait()
        if not self.is_on:
            warn_open(host)
