"""The policies that there are, by name."""

from __future__ import annotations

from baton.core.errors import ConfigError
from baton.router.policy.base import Policy
from baton.router.policy.least_loaded import LeastLoaded
from baton.router.policy.round_robin import RoundRobin

_POLICIES: dict[str, type[Policy]] = {"least_loaded": LeastLoaded, "round_robin": RoundRobin}


def policy_named(name: str) -> Policy:
    """The policy that the settings ask for. Raises ConfigError that lists those there are."""
    if name not in _POLICIES:
        raise ConfigError(
            f"unknown routing policy {name!r}; router.policy is one of {', '.join(_POLICIES)}"
        )
    return _POLICIES[name]()
