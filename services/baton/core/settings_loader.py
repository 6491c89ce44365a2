"""From flags, environment and a YAML file to `Settings`, with errors that say what to do.

Precedence: flags, then environment, then the file, then defaults. A name that no setting has is an
error wherever it stands: pydantic-settings would pass over a misspelt variable in silence.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from baton.core.errors import ConfigError
from baton.core.redact import redact_url
from baton.core.settings import Group, Settings

ENV_PREFIX = "BATON_"
# Those of tests and benches.
FREE_ENV_PREFIXES = ("BATON_TEST_", "BATON_BENCH_")


@dataclass(frozen=True, slots=True)
class SettingField:
    """A leaf of the tree: `gateway.port`, in the environment `BATON_GATEWAY__PORT`."""

    name: str
    info: FieldInfo

    @property
    def group(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def env(self) -> str:
        return ENV_PREFIX + self.name.upper().replace(".", "__")


@dataclass(frozen=True, slots=True)
class _Given:
    """A value and where it came from, for messages."""

    value: Any
    source: str


@cache
def setting_fields() -> Mapping[str, SettingField]:
    """All leaves by dotted name, in the tree's order."""
    return {field.name: field for field in _leaves(Settings.model_fields, "")}


def group_of(info: FieldInfo) -> type[Group] | None:
    """The group that a field of `Settings` is, or None for a leaf."""
    annotation = info.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Group) else None


def _leaves(fields: Mapping[str, FieldInfo], above: str) -> Iterator[SettingField]:
    for name, info in fields.items():
        group = group_of(info)
        if group is None:
            yield SettingField(above + name, info)
        else:
            yield from _leaves(group.model_fields, f"{above}{name}.")


def load(config_file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Build the tree. `overrides` are flags by dotted name (`gateway.port`); None means not given.

    Raises ConfigError with a line for each problem: the setting, where its value came from, and
    the nearest right name or what is allowed.
    """
    problems: list[str] = []
    given: dict[str, _Given] = {}
    if config_file is not None:
        given |= _from_document(read_yaml(config_file), "", str(config_file), problems)
    given |= _from_environment(os.environ, problems)
    given |= _from_flags(overrides or {}, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    try:
        # It reads the environment again, which changes nothing: every variable is given already.
        settings = Settings(**_nested(given))
    except ValidationError as error:
        lines = [_explain(dict(detail), given) for detail in error.errors(include_url=False)]
        raise ConfigError("\n".join(lines)) from None
    if settings.worker.lease_renew_s >= settings.worker.lease_ttl_s:
        raise ConfigError(
            f"worker.lease_renew_s ({settings.worker.lease_renew_s:g}) must be below "
            f"worker.lease_ttl_s ({settings.worker.lease_ttl_s:g}), or leases run out in between"
        )
    return settings


def effective_yaml(settings: Settings) -> str:
    """The whole tree as YAML that `load` takes; the password in the store's URL is not shown."""
    tree = settings.model_dump(mode="json")
    tree["store"]["url"] = redact_url(tree["store"]["url"])
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> dict[Any, Any]:
    """A YAML file that holds a mapping, or nothing. Raises ConfigError, with the line if known."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise ConfigError(f"{where}: {getattr(error, 'problem', None) or error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path} must hold settings by name, like `gateway: {{port: 8000}}`")
    return document


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's last word on a repeated name would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # refused below
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _from_document(
    document: Mapping[Any, Any], above: str, source: str, problems: list[str]
) -> dict[str, _Given]:
    given: dict[str, _Given] = {}
    groups = {field.group for field in setting_fields().values()}
    for key, value in document.items():
        name = f"{above}{key}"
        if "." in str(key):
            # Both spellings could stand in one file and contradict each other.
            problems.append(f"{name!r} in {source}: groups nest, as in `gateway: {{port: 1}}`")
        elif name in setting_fields():
            given[name] = _Given(value, source)
        elif name not in groups:
            meant = _did_you_mean(name, groups if isinstance(value, dict) else ())
            problems.append(f"unknown setting {name!r} in {source}{meant}")
        elif isinstance(value, dict):
            given |= _from_document(value, f"{name}.", source, problems)
        elif value is not None:
            inside = ", ".join(n for n, field in setting_fields().items() if field.group == name)
            problems.append(f"{name} in {source} is a group of settings: {inside}")
    return given


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, _Given]:
    by_env = {field.env: name for name, field in setting_fields().items()}
    given: dict[str, _Given] = {}
    for variable, value in environ.items():
        # As pydantic-settings: case does not matter.
        upper = variable.upper()
        if not upper.startswith(ENV_PREFIX) or upper.startswith(FREE_ENV_PREFIXES):
            continue
        name = by_env.get(upper)
        if name is None:
            guess = upper.removeprefix(ENV_PREFIX).replace("__", ".")
            nearest = nearest_setting(guess)
            meant = _meant(nearest and setting_fields()[nearest].env)
            problems.append(f"unknown environment variable {variable}{meant}")
        else:
            given[name] = _Given(value, variable)
    return given


def _from_flags(flags: Mapping[str, Any], problems: list[str]) -> dict[str, _Given]:
    given: dict[str, _Given] = {}
    for name, value in flags.items():
        if name not in setting_fields():
            problems.append(f"unknown setting {name!r}{_did_you_mean(name)}")
        elif value is not None:
            given[name] = _Given(value, "flag")
    return given


def _nested(given: Mapping[str, _Given]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, item in given.items():
        *groups, leaf = name.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[leaf] = item.value
    return tree


def _explain(detail: Mapping[str, Any], given: Mapping[str, _Given]) -> str:
    """One line for one of pydantic's errors."""
    name = ".".join(str(part) for part in detail["loc"])
    allowed = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    allowed = allowed[:1].lower() + allowed[1:]
    item = given.get(name)
    if item is None:
        return f"{name}: {allowed}"
    shown = repr(redact_url(item.value) if isinstance(item.value, str) else item.value)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return f"{name} = {shown} ({item.source}): {allowed}"


def _did_you_mean(name: str, groups: Collection[str] = ()) -> str:
    group = difflib.get_close_matches(name, groups, n=1)
    nearest = group[0] if group else nearest_setting(name)
    return _meant(nearest and repr(nearest))


def _meant(nearest: str | None) -> str:
    return f"; did you mean {nearest}?" if nearest else "; `baton config` prints all settings"


def nearest_setting(name: str) -> str | None:
    """The setting that a misspelt, misplaced or flag-like name most likely means."""
    by_path = {_plain(known): known for known in setting_fields()}
    # The first of several leaves with one name wins.
    by_leaf = {_plain(known.rpartition(".")[2]): known for known in reversed([*setting_fields()])}
    path, leaf = _plain(name), _plain(name.rpartition(".")[2])
    for candidates, word, cutoff in (
        (by_path, path, 0.85),
        (by_leaf, leaf, 1.0),
        (by_path, path, 0.7),
        (by_leaf, leaf, 0.7),
    ):
        close = difflib.get_close_matches(word, list(candidates), n=1, cutoff=cutoff)
        if close:
            return candidates[close[0]]
    return None


def _plain(name: str) -> str:
    return name.lower().strip("-").replace("-", "_").replace(".", "_")
