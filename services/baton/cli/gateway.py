"""`baton gateway`"""

from __future__ import annotations

import asyncio
import json as json_module
import os
import shlex
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from baton.cli.flags import GATEWAY, with_settings
from baton.core.redact import redact_url
from baton.core.settings import LogSettings, Settings

if TYPE_CHECKING:
    import socket

    from baton.gateway.server import GatewayConfig


@with_settings(GATEWAY)
def gateway(
    settings: Settings,
    json: Annotated[
        bool, typer.Option("--json", help="Print the addresses as one line of JSON.")
    ] = False,
) -> None:
    """Serve HTTP and gRPC for workers that others start; Ctrl-C ends it.

    SIGTERM ends it in an order that clients do not notice: unready for gateway.unready_wait_s, then
    streams get gateway.drain_timeout_s. A second signal ends it at once.
    """
    from baton.cli.ports import bind_ports
    from baton.cli.token_file import deployment_token
    from baton.cluster.parts import gateway_config
    from baton.core import model_folder
    from baton.gateway.http.server import new_event_loop
    from baton.telemetry import logging

    logging.setup(settings.log.level, settings.log.format)
    listener = bind_ports(settings)
    model = settings.model
    folder = model_folder.resolve(model.source, model.revision, weights=False)
    config = gateway_config(settings, folder, deployment_token(settings)[0])
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_run(config, listener, settings.log, json))


async def _run(
    config: GatewayConfig, listener: socket.socket, log: LogSettings, json: bool
) -> None:
    from baton.cli.stopping import Stopped, StopSignals
    from baton.gateway.processes import GatewayProcesses

    signals = StopSignals()
    server = GatewayProcesses(config, listener, log)
    addresses = await server.start()
    store = redact_url(addresses.store)
    if json:
        shown = {"http": addresses.http, "grpc": addresses.grpc, "store": store}
        print(json_module.dumps(shown), flush=True)
    else:
        print(f"HTTP  {addresses.http}\ngRPC  {addresses.grpc}\nstore {store}", flush=True)
        print(f"Start workers with: {worker_command(addresses.store)}", flush=True)
    await signals.asked.wait()
    if signals.first is signal.SIGTERM:
        stopping = server.leave()
    else:
        stopping = server.stop(config.gateway.shutdown_grace_s)
    try:
        await signals.unless_forced(stopping)
    except Stopped:
        # At once: connections are cut, and nobody is told.
        os._exit(1)


def worker_command(store: str) -> str:
    """What to paste into a shell. A password is left to it, and out of the list of processes."""
    shown = redact_url(store)
    if shown == store:
        return f"baton worker --role any --store {shlex.quote(store)}"
    url = shown.replace("***", "$STORE_PASSWORD")
    return (
        f'BATON_STORE__URL="{url}" baton worker --role any\n'
        "after: read -rs STORE_PASSWORD (the one in this gateway's store.url, special characters "
        "as %XX)"
    )
