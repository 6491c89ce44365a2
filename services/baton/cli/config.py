"""`baton config`"""

from __future__ import annotations

import json as json_module
import os
from typing import Annotated

import typer

from baton.cli.flags import SERVE, WORKER, with_settings
from baton.core import model_folder, settings_loader
from baton.core.settings import ModelSettings, Settings
from baton.router.policy.registry import policy_named

# A host could be the gateway's or the worker's: flags of `serve` mean the gateway's.
_FLAGS = {**WORKER, **SERVE}


@with_settings(_FLAGS)
def config(
    settings: Settings, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False
) -> None:
    """Print the settings in effect: from flags, environment, file and defaults."""
    _check_length(settings.model)
    policy_named(settings.router.policy, settings.router)
    document = settings_loader.effective_yaml(settings)
    if json:
        import yaml

        document = json_module.dumps(yaml.safe_load(document))
    print(document.rstrip())


def _check_length(model: ModelSettings) -> None:
    """As the parts do at their start; here of models on disk alone, for this downloads nothing."""
    is_local = model.source == model_folder.EMBEDDED or os.path.isdir(
        os.path.expanduser(model.source)
    )
    if model.max_model_len is not None and is_local:
        folder = model_folder.resolve(model.source, weights=False)
        model_folder.served_length(model_folder.config(folder), model.max_model_len)
