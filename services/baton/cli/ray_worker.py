"""`baton worker --ray` from its parent's side: one worker in a Ray of its own, until the end.

This process never imports Ray (see `ray_process`); it passes signals on and tells how it ended. The
worker's probes are answered where its engine runs, in the actor. `--join` is the same for a further
node of such a worker, which has no worker itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

from baton.cli.stopping import Stopped, StopSignals
from baton.cluster.addresses import is_local, leader_at
from baton.cluster.child import Child
from baton.cluster.protocol import ClusterConfig, Event
from baton.cluster.ray_env import TOKEN_VARIABLES, make_temp_dir
from baton.core.errors import ConfigError, UnavailableError
from baton.core.settings import Settings
from baton.telemetry.logging import event
from baton.worker.config import WorkerConfig

log = logging.getLogger(__name__)

# Beyond the worker's grace: its goodbye to the store, and the end of Ray.
STOP_MARGIN_S = 10.0
# What Ray puts before each line of an actor; without it a line of JSON is one again.
_PREFIX = re.compile(r"^(?:\x1b\[\d+m)?\(\w+ pid=\d+\)(?:\x1b\[0m)? ")


def run(
    settings: Settings, worker: WorkerConfig, say_ready: Callable[[dict[str, Any]], None]
) -> int:
    """Serve until a signal comes; the exit status. Raises what the worker ended with.

    `say_ready` hears worker_id, address and health of the worker once it serves.
    """
    if settings.cluster.ray_address is not None:
        raise ConfigError(
            "worker.ray starts a Ray for this worker alone; leave cluster.ray_address unset"
        )
    shared_port = None
    if settings.worker.num_nodes > 1:
        _check_token()
        if is_local(settings.worker.host):
            raise ConfigError(
                f"worker.host {settings.worker.host}: the other nodes of this worker cannot reach "
                "it there; give --host an address of this machine"
            )
        shared_port = settings.cluster.ray_port
    config = ClusterConfig(
        settings=_tree(settings, worker.worker_id),
        token=worker.token,
        store_url=worker.store_url,
        model_folder=worker.model_folder,
        model_name=worker.model_name,
        temp_dir=make_temp_dir(),
    )

    def on_event(happened: Event) -> None:
        match happened:
            case {"event": "worker", "state": "ready"}:
                say_ready(happened)
            case {"event": "nodes", "joined": joined, "wanted": wanted}:
                _say(f"{joined} of the worker's {wanted} nodes have joined")
            case {"event": "ray_lost"}:
                log.error(*event("ray_head_lost", worker=worker.worker_id))

    module = "baton.cluster.one_worker"
    return asyncio.run(_run(module, config, settings.worker.drain_grace_s, on_event, shared_port))


def join(settings: Settings) -> int:
    """Be a node of another worker until that ends, or a signal comes; the exit status."""
    leader = settings.worker.join or ""
    _check_token()
    _, port = leader_at(leader, settings.cluster.ray_port)
    config = ClusterConfig(
        settings=_tree(settings, None),
        # No worker is started from here: the leader tells its ranks all that they need.
        token="",
        store_url="",
        model_folder=None,
        model_name="",
        temp_dir=make_temp_dir(),
    )

    def on_event(happened: Event) -> None:
        match happened:
            case {"event": "stage", "name": "leader"}:
                _say(f"waiting for the leader's Ray at {leader}")
            case {"event": "ready"}:
                _say(f"joining the leader's Ray at {leader}")

    module = "baton.cluster.joined_node"
    return asyncio.run(_run(module, config, settings.worker.drain_grace_s, on_event, port))


def _tree(settings: Settings, worker_id: str | None) -> dict[str, Any]:
    tree = settings.model_dump(mode="json")
    tree["worker"]["worker_id"] = worker_id
    return tree


def _check_token() -> None:
    """A worker of several nodes cannot draw its own. Raises ConfigError."""
    if not any(os.environ.get(name) for name in TOKEN_VARIABLES):
        raise ConfigError(
            f"all nodes of one worker need the same token for Ray: set {TOKEN_VARIABLES[0]}, or "
            f"{TOKEN_VARIABLES[1]} to a file with it"
        )


async def _run(
    module: str,
    config: ClusterConfig,
    grace_s: float,
    on_event: Callable[[Event], None],
    shared_port: int | None,
) -> int:
    signals = StopSignals()
    child = await Child.spawn(
        config, on_event, _write, module=module, given_token=True, shared_port=shared_port
    )
    try:
        await signals.unless_asked(child.serve(with_log=False))
        await _ended(child, signals.asked)
        if child.ended.done():
            raise child.error or UnavailableError("the process that runs Ray died")
        child.send({"retire": grace_s})
        async with asyncio.timeout(grace_s + STOP_MARGIN_S):
            await _ended(child, signals.forced)
        if child.ended.done() and child.error is not None:
            raise child.error
    except Stopped:
        # It did not serve yet.
        return 0 if signals.first is signal.SIGTERM else 128 + signal.SIGINT
    except TimeoutError:
        log.error(*event("worker_did_not_leave", within_s=grace_s + STOP_MARGIN_S))
        return 1
    finally:
        await child.stop(force=True)
    return 128 + signals.first if signals.forced.is_set() and signals.first else 0


async def _ended(child: Child, happened: asyncio.Event) -> None:
    """Return once the child has ended, or the event has happened."""
    waiter = asyncio.create_task(happened.wait())
    try:
        await asyncio.wait([child.ended, waiter], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()


def _write(line: str) -> None:
    _say(_PREFIX.sub("", line))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
