"""`baton serve`"""

from __future__ import annotations

import asyncio
import os

import typer

from baton.cli.flags import SERVE, with_settings
from baton.core.settings import Settings


@with_settings(SERVE)
def serve(settings: Settings) -> None:
    """Serve a model: gateway, Ray, prefill and decode workers. Ctrl-C ends all of it."""
    # Otherwise gRPC, which runs when the child is started, complains that it cannot follow a fork.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    from baton.cli.deployment import Deployment
    from baton.cli.ports import bind_ports
    from baton.cli.token_file import deployment_token
    from baton.gateway.http.server import new_event_loop

    listener = bind_ports(settings)
    token, token_file = deployment_token(settings)
    deployment = Deployment(settings, token, token_file, listener)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        status = runner.run(deployment.run())
    raise typer.Exit(status)
