"""Who gets which worker, and how fast it should be: routing, objectives, tenants."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from baton_operator.types.base import Part, Rule


class RoutingSpec(Part):
    """Which worker gets a request."""

    policy: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)] = (
        "kv_aware"
    )
    """kv_aware, conductor, dynamo, latency, least_loaded, power_of_two, random, round_robin,
    session_affinity, or a policy that a package in the image brings."""
    disaggregation: Literal["auto", "always"] = "auto"
    """auto lets a decode worker compute a prompt when that is predicted to be cheaper; always uses
    prefill workers as long as there are any."""


class SloSpec(Part):
    """Objectives; the condition SLOMet compares them with what gateways measure."""

    ttft_seconds: float | None = Field(None, gt=0, le=3600)
    """Time to the first token in seconds; unset sets none."""
    tpot_seconds: float | None = Field(None, gt=0, le=3600)
    """Time per output token after the first in seconds; unset sets none."""
    quantile: float = Field(0.95, gt=0, lt=1)
    """Share of requests that have to meet them; 0.95 leaves room for rare long prompts."""

    rules = (
        Rule(
            "has(self.ttftSeconds) || has(self.tpotSeconds)",
            "slo: set ttftSeconds or tpotSeconds, or remove slo",
            lambda s: s.ttft_seconds is not None or s.tpot_seconds is not None,
        ),
    )


class Tenant(Part):
    """A tenant whose share of the workers is not 1."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:@/-]+$", max_length=128)]
    """Name as in its API keys."""
    weight: float = Field(gt=0, le=1_000_000)
    """Share beside the others, who have 1."""
