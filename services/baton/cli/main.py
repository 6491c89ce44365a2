"""The `baton` command."""

from __future__ import annotations

import typer

from baton.cli.config import config
from baton.cli.drain import drain, undrain
from baton.cli.explain import explain
from baton.cli.fetch import fetch
from baton.cli.gateway import gateway
from baton.cli.keys import app as keys
from baton.cli.serve import serve
from baton.cli.version import version
from baton.cli.worker import worker
from baton.cli.workers import workers

app = typer.Typer(
    help="Serve large language models with prefill and decode on separate pools of workers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    *(serve, gateway, worker, workers, explain, drain, undrain, fetch, config, version),
):
    app.command()(command)
app.add_typer(keys, name="keys")

if __name__ == "__main__":
    app()
