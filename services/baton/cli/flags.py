"""Flags of the commands: a name here, and help, type and checks from the settings tree."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from baton.cli.sizes import parse_size
from baton.core import settings_loader
from baton.core.errors import BatonError, ConfigError

_MODEL = {
    "--model": "model.source",
    "--revision": "model.revision",
    "--device": "model.device",
    "--dtype": "model.dtype",
    "--max-model-len": "model.max_model_len",
}
_ENGINE = {
    "--engine": "engine.kind",
    "--kv-blocks": "engine.kv_blocks",
    "--kv-memory": "engine.kv_memory_bytes",
    "--block-size": "engine.block_size",
    "--host-kv": "tiers.host_bytes",
    "--disk-kv": "tiers.disk_bytes",
    "--disk-kv-path": "tiers.disk_path",
    "--mock-prefill-us-per-token": "engine.mock_prefill_us_per_token",
    "--mock-step-ms": "engine.mock_step_ms",
}
_COMMON = {
    "--store": "store.url",
    "--token-file": "token_file",
    "--log-level": "log.level",
}
# For commands that find a worker through the store.
CONTROL = {"--store": "store.url", "--token-file": "token_file"}
# A gateway takes the engine's flags too, so that one set fits all parts of a deployment.
GATEWAY = {
    **_MODEL,
    "--host": "gateway.host",
    "--port": "gateway.port",
    "--grpc-port": "gateway.grpc_port",
    "--gateway-processes": "gateway.processes",
    "--auth": "gateway.auth",
    "--store-file": "store.file",
    "--policy": "router.policy",
    "--request-timeout": "gateway.request_timeout_s",
    **_ENGINE,
    **_COMMON,
}
WORKER = {
    **_MODEL,
    "--role": "worker.role",
    "--worker-id": "worker.worker_id",
    "--host": "worker.host",
    "--health-port": "worker.health_port",
    "--ray": "worker.ray",
    "--nodes": "worker.num_nodes",
    "--join": "worker.join",
    **_ENGINE,
    **_COMMON,
}
FETCH = {
    "--model": "model.source",
    "--revision": "model.revision",
    "--log-level": "log.level",
}
SERVE = {
    **_MODEL,
    "--prefill": "pools.prefill",
    "--decode": "pools.decode",
    "--aggregated": "pools.prefill",
    "--ray-address": "cluster.ray_address",
    **GATEWAY,
}

AGGREGATED_HELP = "The same as --prefill 0: the decode workers compute prompts too."
CONFIG_HELP = "YAML file with settings; flags and the environment win over it."
SIZES = {"--kv-memory", "--host-kv", "--disk-kv"}


def with_settings(flags: dict[str, str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command `flags`, and build its first argument, the settings, from what was typed.

    Errors of ours end the command with one message: exit status 2 for settings, else 1.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        names = {flag.removeprefix("--").replace("-", "_"): flag for flag in flags}

        def run(**values: Any) -> None:
            with reported_errors():
                config: Path | None = values.pop("config")
                typed = {flag: values.pop(name) for name, flag in names.items()}
                command(settings_loader.load(config, overrides(flags, typed)), **values)

        parameters = [_parameter(name, flag, flags[flag]) for name, flag in names.items()]
        parameters.append(_keyword("config", Path | None, "--config", CONFIG_HELP, "FILE"))
        parameters += [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


class reported_errors:
    """Tells BatonErrors in one message, without a traceback, and ends the command."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, BatonError):
            lines = str(error).splitlines() or [error.code]
            print("\n".join(f"baton: {line}" for line in lines), file=sys.stderr)
            raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(130) from None


def overrides(flags: dict[str, str], typed: dict[str, Any]) -> dict[str, Any]:
    """Settings by dotted name, of the flags that were typed. Raises ConfigError."""
    values: dict[str, Any] = {}
    for flag, value in typed.items():
        if value is None or value is False:
            continue
        if flag == "--aggregated":
            if typed.get("--prefill"):
                raise ConfigError("--aggregated means --prefill 0; leave one of them out")
            value = 0
        elif flag in SIZES:
            value = parse_size(value, flag)
        values[flags[flag]] = value
    return values


def _parameter(name: str, flag: str, setting: str) -> inspect.Parameter:
    if flag == "--aggregated":
        return _keyword(name, bool, flag, AGGREGATED_HELP, "", default=False)
    info = settings_loader.setting_fields()[setting].info
    kind = _without_none(info.annotation)
    help_text = " ".join((info.description or "").split())
    if info.default is not None:
        help_text += f" (default: {info.default})"
    if flag in SIZES:
        return _keyword(name, str | None, flag, f"{help_text} Or 512MiB, 2GiB, ...", "SIZE")
    if get_origin(kind) is Literal:
        return _keyword(name, str | None, flag, help_text, "|".join(get_args(kind)))
    if kind is bool:
        return _keyword(name, bool, flag, help_text, "", default=False)
    metavar = {int: "N", float: "X", Path: "FILE"}.get(kind, "TEXT")
    return _keyword(name, kind | None, flag, help_text, metavar)


def _without_none(annotation: Any) -> Any:
    kinds: Iterable[Any] = [a for a in get_args(annotation) if a is not NoneType]
    if get_origin(annotation) is Literal or not kinds:
        return annotation
    (kind,) = kinds
    return kind


def _keyword(
    name: str, kind: Any, flag: str, help_text: str, metavar: str, default: Any = None
) -> inspect.Parameter:
    option = typer.Option(flag, help=help_text, metavar=metavar, show_default=False)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, option],
    )
