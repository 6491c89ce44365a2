"""API keys and tenants as the store has them, under `auth/`.

Unknown fields are left alone, so that gateways of two versions can share a store.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from baton.core.api_key import Scope
from baton.core.errors import InvalidRequestError
from baton.store.limits import MAX_BOUND

AUTH_PREFIX = "auth/"
KEY_PREFIX = "auth/keys/"
TENANT_PREFIX = "auth/tenants/"
DEFAULT_TENANT = "default"
MAX_NAME_CHARS = 100

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Period = Literal["total", "month", "day"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class KeyLimits(_Record):
    """Of a key, or of all keys of a tenant together; None: no limit."""

    rpm: int | None = Field(None, ge=1, le=MAX_BOUND)
    """Requests a minute."""
    tpm: int | None = Field(None, ge=1, le=MAX_BOUND)
    """Tokens a minute, of prompts and answers."""
    concurrent: int | None = Field(None, ge=1, le=MAX_BOUND)
    """Requests at once."""
    budget: int | None = Field(None, ge=1, le=MAX_BOUND)
    """Tokens in `budget_period`."""
    budget_period: Period = "total"
    """A day or month of UTC, or all time."""


class KeyRecord(_Record):
    """One API key. Instants are Unix times."""

    id: str
    """Names it; a part of the key."""
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the key, hexadecimal."""
    name: str = Field("", max_length=MAX_NAME_CHARS)
    """For people."""
    tenant: str = DEFAULT_TENANT
    """Whose it is."""
    scopes: frozenset[Scope] = frozenset({Scope.INFERENCE})
    """What it may be used for."""
    limits: KeyLimits = KeyLimits()
    created: float = 0.0
    created_by: str = ""
    """Key id or user that made it."""
    expires: float | None = None
    revoked: float | None = None
    revoked_by: str = ""

    @field_validator("tenant")
    @classmethod
    def _tenant(cls, value: str) -> str:
        return checked_tenant(value)

    @property
    def store_key(self) -> str:
        return KEY_PREFIX + self.id

    def state(self, now: float) -> Literal["active", "expired", "revoked"]:
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"


class TenantRecord(_Record):
    """Whoever shares limits, cached prefixes and a fair share of the service."""

    name: str
    salt: str = Field(pattern=r"^[0-9a-f]{32}$")
    """Drawn once; begins the block hashes of its prompts."""
    limits: KeyLimits = KeyLimits()

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return checked_tenant(value)

    @property
    def store_key(self) -> str:
        return TENANT_PREFIX + self.name


def checked_tenant(name: str) -> str:
    """Raises ValueError unless it can be a tenant's name."""
    if not _TENANT.fullmatch(name):
        raise ValueError("a tenant's name is 1 to 64 letters, digits or ._-, no sign first")
    return name


def problem(error: ValidationError) -> InvalidRequestError:
    """What was wrong with a record that somebody wanted, naming the field."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    said = first["msg"].removeprefix("Value error, ")
    return InvalidRequestError(f"{where}: {said}", param=where)
