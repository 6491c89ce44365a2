"""Who may steer workers and traffic: the operator, by the deployment's token, or an admin's key.

The token counts whatever `gateway.auth` says, since the operator has no API key. Looking needs no
more than it does elsewhere, and a gateway on loopback without keys is open, here as elsewhere.
"""

from __future__ import annotations

import hmac

from starlette.types import Scope as AsgiScope
from starlette.types import Send

from baton.core.api_key import Scope
from baton.core.errors import BatonError, InvalidKeyError
from baton.gateway.http.asgi import response_headers, send_error
from baton.gateway.keys.access import Access
from baton.gateway.keys.caller import CALLER, Caller

OPERATOR = Caller(key_id="deployment-token", scopes=frozenset({Scope.READ, Scope.ADMIN}))
_PATHS = ("/v1/baton/workers", "/v1/baton/status", "/v1/baton/traffic")
_LOOKS = ("GET", "HEAD")


class OperatorAccess:
    """`is_local`: only this machine reaches the gateway."""

    def __init__(self, token: str, *, is_local: bool) -> None:
        self._token = token.encode()
        self._is_local = is_local

    async def guard(self, access: Access | None, scope: AsgiScope, send: Send) -> bool:
        """Whether a request may go on; answers those that may not. `access` as the context's."""
        if scope["path"].startswith(_PATHS):
            if self._shows_token(scope):
                scope[CALLER] = OPERATOR
                return True
            try:
                self._check(access, scope)
            except BatonError as error:
                await send_error(send, error, response_headers(scope))
                return False
        return access is None or await access.guard(scope, send)

    def _check(self, access: Access | None, scope: AsgiScope) -> None:
        """Raises InvalidKeyError for a change by nobody known, where no key is asked for."""
        if self._is_local or scope["method"] in _LOOKS:
            return
        if access is None or not access.auth.is_on:
            raise InvalidKeyError(
                "This needs the deployment's token in an Authorization header using Bearer auth, "
                "or an API key with scope admin where keys are asked for."
            )

    def _shows_token(self, scope: AsgiScope) -> bool:
        for name, value in scope["headers"]:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                return hmac.compare_digest(value[7:].strip(), self._token)
        return False
