"""Policies by name, also those of installed packages."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from baton.core.errors import ConfigError
from baton.core.settings import RouterSettings
from baton.router.policy import registry
from baton.router.policy.base import Policy
from baton.router.policy.least_loaded import LeastLoaded
from baton.router.policy.registry import policy_named


class Picky(LeastLoaded):
    """A package's policy."""

    name = "picky"

    def __init__(self, settings: RouterSettings) -> None:
        self.temperature = settings.temperature


def broken(settings: RouterSettings) -> Policy:
    raise RuntimeError("it needs a licence")


def not_a_policy(settings: RouterSettings) -> object:
    return object()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that packages bring these: name to `module:attribute`."""

    def put(**found: str) -> None:
        points = [EntryPoint(name, value, registry.ENTRY_POINTS) for name, value in found.items()]

        def entry_points(**wanted: Any) -> EntryPoints:
            return EntryPoints(points).select(**wanted)

        monkeypatch.setattr(registry, "entry_points", entry_points)

    return put


def test_unknown_name_lists_those_there_are(install: Callable[..., None]) -> None:
    install(picky=f"{__name__}:Picky")
    with pytest.raises(ConfigError, match=r"'fastest'.*kv_aware, .*round_robin.*, picky"):
        policy_named("fastest")


def test_package_brings_a_policy_that_gets_the_settings(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(picky="picky_policies:make")
    monkeypatch.setattr(EntryPoint, "load", lambda self: Picky)
    policy = policy_named("picky", RouterSettings(temperature=0.5, disaggregation="always"))
    assert isinstance(policy, Picky)
    assert (policy.temperature, policy.always_pairs) == (0.5, True)


@pytest.mark.parametrize(
    ("loaded", "message"),
    [(broken, "it needs a licence"), (not_a_policy, "made a object.*subclass it")],
)
def test_package_that_brings_no_policy_is_a_clear_error(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch, loaded: Any, message: str
) -> None:
    install(odd="odd_package:make")
    monkeypatch.setattr(EntryPoint, "load", lambda self: loaded)
    with pytest.raises(ConfigError, match=rf"'odd' \(odd_package:make\).*{message}"):
        policy_named("odd")


def test_package_that_is_not_importable_is_a_clear_error(install: Callable[..., None]) -> None:
    install(gone="no_such_package_here:make")
    with pytest.raises(ConfigError, match=r"does not load.*no_such_package_here.*router\.policy"):
        policy_named("gone")


def test_default_policy_exists() -> None:
    assert policy_named(RouterSettings().policy).name == "kv_aware"
