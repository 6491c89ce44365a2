"""The way from a command to a gateway: over HTTP, with the API key that the settings name."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from baton.core.errors import ConfigError, UnauthenticatedError, UnavailableError
from baton.core.settings import GatewaySettings, Settings
from baton.core.token import read_token

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

TIMEOUT_S = 5.0


def own_url(gateway: GatewaySettings) -> str:
    """The URL of a gateway on this machine."""
    host = "127.0.0.1" if gateway.host in ("0.0.0.0", "::", "") else gateway.host
    scheme = "http" if gateway.tls_cert_file is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{gateway.port}"


def fetch(settings: Settings, url: str | None, path: str, read: Callable[[httpx.Response], T]) -> T:
    """What `read` makes of the gateway's answer to a GET of `path`.

    `url` is the gateway's, with or without /v1; by default where the settings put it. An answer
    that `read` cannot make sense of (ValueError, KeyError, TypeError, an HTTPStatusError) did not
    come from a gateway. Raises UnavailableError saying what answered instead, UnauthenticatedError,
    ConfigError for a key file that cannot be used, and what else `read` raises.
    """
    import httpx

    verify = _trusted(settings.gateway if url is None else None)
    url = url or own_url(settings.gateway)
    where = url.rstrip("/").removesuffix("/v1") + path
    headers = _key_headers(settings)
    try:
        # The environment's proxy is for the outside world.
        with httpx.Client(verify=verify, trust_env=False, timeout=TIMEOUT_S) as client:
            answer = client.get(where, headers=headers)
        _check_allowed(answer)
        return read(answer)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise UnavailableError(f"--url {url}: {error}; expected http(s)://HOST:PORT") from error
    except httpx.TransportError as error:
        raise UnavailableError(
            f"no gateway answers at {url}: {error}; name it with --url"
        ) from error
    except (httpx.HTTPStatusError, ValueError, KeyError, TypeError) as error:
        raise UnavailableError(f"{where} is not a Baton gateway: {error}") from error


def _trusted(own: GatewaySettings | None) -> ssl.SSLContext:
    """Authorities that HTTPS goes by: those in SSL_CERT_FILE or SSL_CERT_DIR, or the usual ones.

    The gateway on this machine (`own`) is known by its certificate itself, which is hardly for the
    address that it is reached at. Raises ConfigError when that cannot be read.
    """
    import httpx

    if own is None or own.tls_cert_file is None:
        return httpx.create_ssl_context(trust_env=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(own.tls_cert_file)
    except OSError as error:
        raise ConfigError(
            f"gateway.tls_cert_file = {own.tls_cert_file}: {error.strerror or error}; or name the "
            "gateway with --url"
        ) from error
    return context


def _key_headers(settings: Settings) -> dict[str, str]:
    """The API key comes from a file, so that no list of processes has it."""
    if settings.api_key_file is None:
        return {}
    return {"authorization": f"Bearer {read_token(settings.api_key_file)}"}


def _check_allowed(answer: httpx.Response) -> None:
    """Raises UnauthenticatedError when the gateway wants a key, or another one."""
    if answer.status_code in (401, 403):
        said = answer.json()["error"]["message"]
        raise UnauthenticatedError(
            f"{said}\nPut a key with scope read into a file and name it in BATON_API_KEY_FILE."
        )
