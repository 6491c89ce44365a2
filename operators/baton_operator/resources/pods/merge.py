"""Laying one pod spec over another, as `kubectl patch` does.

Maps are merged. Lists that pods keep by a key are merged item by item, tolerations and the like
are put one after the other, any other list is replaced. Null removes what it is given for.
Source: "Notes on the strategic merge patch" of the Kubernetes documentation; the keys are the
`patchMergeKey` of `k8s.io/api/core/v1/types.go`, where tolerations, too, would be replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from baton.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class _Keyed:
    """A list whose items are told apart by some of their fields."""

    keys: tuple[str, ...]
    fields: Mapping[str, _Shape] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    one_source: bool = False
    """Items say one of several kinds of source: another kind takes the place of the first."""


@dataclass(frozen=True, slots=True)
class _Joined:
    """A list that the overlay adds to."""


@dataclass(frozen=True, slots=True)
class _Map:
    fields: Mapping[str, _Shape]


_Shape = _Keyed | _Joined | _Map

_CONTAINER: Mapping[str, _Shape] = {
    "env": _Keyed(("name",), one_source=True),
    "envFrom": _Joined(),
    "ports": _Keyed(("containerPort", "protocol"), defaults={"protocol": "TCP"}),
    "volumeMounts": _Keyed(("mountPath",)),
    "volumeDevices": _Keyed(("devicePath",)),
    "resources": _Map({"claims": _Keyed(("name", "request"))}),
}
_POD: Mapping[str, _Shape] = {
    "containers": _Keyed(("name",), _CONTAINER),
    "initContainers": _Keyed(("name",), _CONTAINER),
    "volumes": _Keyed(("name",), one_source=True),
    "imagePullSecrets": _Keyed(("name",)),
    "resourceClaims": _Keyed(("name",)),
    "hostAliases": _Keyed(("ip",)),
    "topologySpreadConstraints": _Keyed(("topologyKey", "whenUnsatisfiable")),
    "schedulingGates": _Keyed(("name",)),
    "readinessGates": _Joined(),
    "tolerations": _Joined(),
    "securityContext": _Map({"sysctls": _Keyed(("name",))}),
}


def merge_pod_spec(base: Mapping[str, Any], over: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The pod spec `base` with `over` laid on it; neither is changed.

    `path` is where `over` stands, for messages. Raises ConfigError for what cannot be merged: a
    list where a map should be, an item without its key.
    """
    return _merge(base, over, path, _POD)


def _merge(
    base: Mapping[str, Any], over: Mapping[str, Any], path: str, fields: Mapping[str, _Shape]
) -> dict[str, Any]:
    result = dict(base)
    for name, value in over.items():
        here = f"{path}.{name}"
        if value is None:
            result.pop(name, None)
            continue
        old = result.get(name)
        match fields.get(name):
            case _Keyed() as shape:
                result[name] = _merge_keyed(old or [], _as_list(value, here), here, shape)
            case _Joined():
                items = _as_list(value, here)
                result[name] = [*(old or []), *(_without_nulls(each) for each in items)]
            case _Map(inner):
                result[name] = _merge(old or {}, _as_map(value, here), here, inner)
            case _ if isinstance(old, Mapping):
                result[name] = _merge(old, _as_map(value, here), here, {})
            case _:
                result[name] = _without_nulls(value)
    return result


def _merge_keyed(
    old: Sequence[Mapping[str, Any]], new: Sequence[Any], path: str, shape: _Keyed
) -> list[Mapping[str, Any]]:
    result = list(old)
    for number, item in enumerate(new):
        here = f"{path}[{number}]"
        over = _as_map(item, here)
        if over.get(shape.keys[0]) is None:
            raise ConfigError(f"{here} needs {shape.keys[0]}: items there are told apart by it")
        key = _key(over, shape)
        place = next((n for n, each in enumerate(result) if _key(each, shape) == key), None)
        if place is None:
            result.append(_merge({}, over, here, shape.fields))
            continue
        under = result[place]
        if shape.one_source:
            under = {name: value for name, value in under.items() if name in over}
        result[place] = _merge(under, over, here, shape.fields)
    return result


def _key(item: Mapping[str, Any], shape: _Keyed) -> tuple[Any, ...]:
    return tuple(item.get(name, shape.defaults.get(name)) for name in shape.keys)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in value if each is not None]
    return value


def _as_map(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path} has to hold fields by name, not {value!r:.80}")
    return value


def _as_list(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(f"{path} has to be a list, not {value!r:.80}")
    return value
