"""The operator's settings: one frozen tree, read once from the environment.

Each is `BATON_OPERATOR_<NAME>` in the pod's environment; the chart sets them from its values. What
a service is like stands in its ModelService, never here.
"""

from __future__ import annotations

import difflib
import os
import secrets
import socket
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from baton.core.errors import ConfigError

ENV_PREFIX = "BATON_OPERATOR_"


class OperatorSettings(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )

    key: SecretStr = Field(min_length=16)
    """Secret of this installation, at least 16 characters. The tokens and passwords of every
    service are made from it and the service's UID, so that no Secret is ever read."""
    namespace: str | None = None
    """The one namespace to serve; unset, all of them. With it no cluster-wide permission is
    needed."""
    own_namespace: str = Field(default="default", min_length=1)
    """Where the operator runs; its Lease is there."""
    identity: str = Field(default_factory=lambda: _process_name(), min_length=1)
    """Name of this process in the Lease and in events: the pod's name, so that a restarted
    container gets its own Lease back at once; unset, one that no other process has."""
    image: str | None = None
    """Image of workers and gateways for services that name none. It is recorded in the service's
    status: another one here changes no running pod."""

    monitors: bool = False
    """Make PodMonitors and ServiceMonitors for services, where the cluster has these kinds."""

    redis_url: SecretStr | None = None
    """Address of the bundled Redis with its administrator's password; each service gets a user of
    its own there. Unset, every service has to name a store."""

    lease_name: str = Field(default="baton-operator", min_length=1)
    """The Lease that lets one process act. Installations that share a namespace need two."""
    lease_duration_s: float = Field(default=15, gt=0)
    """A standby takes over when it has seen no renewal for so long, by its own clock."""
    lease_deadline_s: float = Field(default=10, gt=0)
    """The holder exits when it could not renew for so long; below the duration, so that what it
    had begun ends before another begins."""
    lease_retry_s: float = Field(default=2, gt=0)
    """Between two renewals, and between two looks of a standby."""

    concurrency: int = Field(default=4, ge=1)
    """Services reconciled at the same time."""
    min_interval_s: float = Field(default=0.5, ge=0)
    """Between two rounds of one service: a burst of events is one round."""
    tick_s: float = Field(default=10, gt=0)
    """Longest time between two rounds of a service, for what no event tells: the gateways'
    measurements, deadlines."""
    backoff_s: float = Field(default=1, gt=0)
    """Wait after a round that failed, and before a refused object is tried again; twice as long
    after each further time."""
    max_backoff_s: float = Field(default=120, gt=0)
    """The longest such wait."""
    resync_s: float = Field(default=600, gt=0)
    """What was watched is listed again this often, and what is never read is written again."""

    api_timeout_s: float = Field(default=20, gt=0)
    """For one call to the API server."""
    signals_timeout_s: float = Field(default=2, gt=0)
    """For one question to a gateway."""
    shutdown_timeout_s: float = Field(default=15, gt=0)
    """After SIGTERM the rounds in progress may take so long; then the Lease is given up."""

    metrics_port: int = Field(default=8080, ge=0, le=65535)
    """/metrics; 0 takes a free one."""
    health_port: int = Field(default=8081, ge=0, le=65535)
    """/healthz and /readyz; 0 takes a free one."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Of the operator's own log lines."""
    log_format: Literal["text", "json"] = "json"
    """json for collectors, text for people."""

    @model_validator(mode="after")
    def _lease_times_fit(self) -> Self:
        if not self.lease_retry_s < self.lease_deadline_s < self.lease_duration_s:
            raise ValueError(
                "lease_retry_s < lease_deadline_s < lease_duration_s must hold: else a Lease is "
                "lost between two renewals, or two operators act at once"
            )
        return self


def _process_name() -> str:
    return f"{socket.gethostname()}-{secrets.token_hex(4)}"


def load(environ: Mapping[str, str] = os.environ) -> OperatorSettings:
    """The settings of `environ`, which is the process's own. Raises ConfigError, a line each."""
    known = {ENV_PREFIX + name.upper() for name in OperatorSettings.model_fields}
    problems = [
        _unknown(name, known)
        for name in sorted(environ)
        if name.startswith(ENV_PREFIX) and name not in known
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    try:
        return OperatorSettings()
    except ValidationError as error:
        lines = [
            f"{ENV_PREFIX}{'_'.join(map(str, detail['loc'])).upper()}: {detail['msg']}"
            if detail["loc"]
            else detail["msg"]
            for detail in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigError("\n".join(lines)) from None


def _unknown(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"no setting {name}" + (f"; did you mean {near[0]}?" if near else "")
