"""The way from a command to a gateway: over HTTP, with the API key that the settings name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from baton.core.errors import UnauthenticatedError, UnavailableError
from baton.core.settings import GatewaySettings, Settings
from baton.core.token import read_token

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

TIMEOUT_S = 5.0


def own_url(gateway: GatewaySettings) -> str:
    """The URL of a gateway on this machine."""
    host = "127.0.0.1" if gateway.host in ("0.0.0.0", "::", "") else gateway.host
    return f"http://[{host}]:{gateway.port}" if ":" in host else f"http://{host}:{gateway.port}"


def fetch(settings: Settings, url: str | None, path: str, read: Callable[[httpx.Response], T]) -> T:
    """What `read` makes of the gateway's answer to a GET of `path`.

    `url` is the gateway's, with or without /v1; by default where the settings put it. An answer
    that `read` cannot make sense of (ValueError, KeyError, TypeError, an HTTPStatusError) did not
    come from a gateway. Raises UnavailableError saying what answered instead, UnauthenticatedError,
    ConfigError for a key file that cannot be used, and what else `read` raises.
    """
    import httpx

    url = url or own_url(settings.gateway)
    where = url.rstrip("/").removesuffix("/v1") + path
    headers = _key_headers(settings)
    try:
        # The environment's proxy is for the outside world.
        with httpx.Client(trust_env=False, timeout=TIMEOUT_S) as client:
            answer = client.get(where, headers=headers)
        _check_allowed(answer)
        return read(answer)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise UnavailableError(f"--url {url}: {error}; expected http://HOST:PORT") from error
    except httpx.TransportError as error:
        raise UnavailableError(
            f"no gateway answers at {url}: {error}; name it with --url"
        ) from error
    except (httpx.HTTPStatusError, ValueError, KeyError, TypeError) as error:
        raise UnavailableError(f"{where} is not a Baton gateway: {error}") from error


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
