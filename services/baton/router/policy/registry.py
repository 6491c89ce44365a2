"""The policies that there are, by name: Baton's, and those of packages.

A package brings one by the entry point group `baton.policies`: the name that `router.policy` takes,
and a class (or function) that is called with the router's settings and returns a `Policy`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from baton.core.errors import ConfigError
from baton.core.settings import RouterSettings
from baton.router.policy.base import Policy
from baton.router.policy.conductor import Conductor
from baton.router.policy.dynamo import Dynamo
from baton.router.policy.kv_aware import KvAware
from baton.router.policy.latency import Latency
from baton.router.policy.least_loaded import LeastLoaded
from baton.router.policy.power_of_two import PowerOfTwo
from baton.router.policy.random_choice import Random
from baton.router.policy.round_robin import RoundRobin
from baton.router.policy.session_affinity import SessionAffinity

ENTRY_POINTS = "baton.policies"

_POLICIES: dict[str, Callable[[RouterSettings], Policy]] = {
    "kv_aware": KvAware,
    "conductor": Conductor,
    "dynamo": Dynamo,
    "latency": Latency,
    "least_loaded": lambda _: LeastLoaded(),
    "power_of_two": lambda _: PowerOfTwo(),
    "random": lambda _: Random(),
    "round_robin": lambda _: RoundRobin(),
    "session_affinity": SessionAffinity,
}


def policy_named(name: str, settings: RouterSettings | None = None) -> Policy:
    """The policy of this name, with the settings' numbers (by default the defaults).

    Raises ConfigError: an unknown name (it lists those there are), or a package's entry point that
    cannot be loaded or gives something else than a policy.
    """
    settings = settings or RouterSettings()
    make = _POLICIES.get(name)
    policy = _of_a_package(name, settings) if make is None else make(settings)
    policy.always_pairs = settings.disaggregation == "always"
    return policy


def _of_a_package(name: str, settings: RouterSettings) -> Policy:
    found = entry_points(group=ENTRY_POINTS)
    if name not in found.names:
        known = ", ".join([*_POLICIES, *sorted(found.names)])
        raise ConfigError(f"unknown routing policy {name!r}; router.policy is one of {known}")
    entry = found[name]
    try:
        policy = entry.load()(settings)
    except Exception as error:
        raise ConfigError(
            f"routing policy {name!r} ({entry.value}) does not load: {error!r}; "
            "fix or uninstall the package, or set router.policy to another"
        ) from error
    if not isinstance(policy, Policy):
        raise ConfigError(
            f"routing policy {name!r} ({entry.value}) made a {type(policy).__name__}, which lacks "
            "members of baton.router.policy.base.Policy: subclass it"
        )
    return policy
