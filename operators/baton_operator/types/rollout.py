"""How a new revision takes over, and what proves who is who."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from baton_operator.types.base import Part, Rule
from baton_operator.types.scalars import Name


class RolloutSpec(Part):
    """How a new revision takes over."""

    strategy: Literal["PairFirst", "InPlace"] = "PairFirst"
    """PairFirst: one new pair gets traffic before the rest is replaced. InPlace: each pool is
    replaced at once within its own limits."""
    weight: int | None = Field(None, ge=0, le=100)
    """Percent of new requests for the new revision, which then stays a canary until this is
    removed; unset splits by ready capacity and carries on."""
    paused: bool = False
    """Whether a rollout stands still where it is."""
    progress_deadline_seconds: int = Field(1800, ge=10, le=86400)
    """Seconds without progress after which a rollout stops and the service is Stalled; as long as
    a model may take to start."""

    rules = (
        Rule(
            "!has(self.weight) || self.strategy == 'PairFirst'",
            "rollout.weight needs strategy PairFirst: only then do two revisions serve at once",
            lambda r: r.weight is None or r.strategy == "PairFirst",
        ),
    )


class SecuritySpec(Part):
    """What proves who is who between the service's own pods."""

    mtls_secret: Name | None = None
    """Secret of this namespace with tls.crt, tls.key and ca.crt for mutual TLS between pods, see
    docs/tls.md: a certificate of DNS name `baton`, for servers and clients. Unset leaves it to the
    token that the operator makes, which is asked for in any case."""
