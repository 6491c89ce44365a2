"""`baton config`"""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer

from baton.cli.flags import SERVE, WORKER, with_settings
from baton.core import settings_loader
from baton.core.settings import Settings

# A host could be the gateway's or the worker's: flags of `serve` mean the gateway's.
_FLAGS = {**WORKER, **SERVE}


@with_settings(_FLAGS)
def config(
    settings: Settings, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False
) -> None:
    """Print the settings in effect: from flags, environment, file and defaults."""
    document = settings_loader.effective_yaml(settings)
    if json:
        import yaml

        document = json_module.dumps(yaml.safe_load(document))
    print(document.rstrip())
