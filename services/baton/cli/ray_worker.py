"""`baton worker --ray` from its parent's side: one worker in a Ray of its own, until the end.

This process never imports Ray (see `ray_process`); it passes signals on and tells how it ended. The
worker's probes are answered where its engine runs, in the actor.
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

from baton.cli.stopping import Stopped, StopSignals
from baton.cluster.child import Child
from baton.cluster.protocol import ClusterConfig, Event
from baton.cluster.ray_env import make_temp_dir
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
    tree = settings.model_dump(mode="json")
    tree["worker"]["worker_id"] = worker.worker_id
    config = ClusterConfig(
        settings=tree,
        token=worker.token,
        store_url=worker.store_url,
        model_folder=worker.model_folder,
        model_name=worker.model_name,
        temp_dir=make_temp_dir(),
    )
    return asyncio.run(_run(config, settings.worker.drain_grace_s, say_ready))


async def _run(
    config: ClusterConfig, grace_s: float, say_ready: Callable[[dict[str, Any]], None]
) -> int:
    signals = StopSignals()

    def on_event(happened: Event) -> None:
        match happened:
            case {"event": "worker", "state": "ready"}:
                say_ready(happened)
            case {"event": "ray_lost"}:
                log.error(*event("ray_head_lost", worker=config.groups().worker.worker_id))

    child = await Child.spawn(
        config, on_event, _write, module="baton.cluster.one_worker", given_token=True
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
    print(_PREFIX.sub("", line), file=sys.stderr, flush=True)
