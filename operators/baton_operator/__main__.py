"""`python -m baton_operator`: the operator, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import sys

from kubernetes.aio.config import ConfigException

from baton.core.errors import ConfigError
from baton.telemetry import logging as telemetry_logging
from baton_operator import settings as operator_settings
from baton_operator.decide.reconcile import reconcile
from baton_operator.kube.client import login
from baton_operator.process import run


async def _operate(settings: operator_settings.OperatorSettings) -> int:
    return await run(settings, await login(), reconcile)


def main() -> int:
    """The exit status: 0 told to stop, 1 the Lease is lost, 2 settings or login make no sense."""
    try:
        settings = operator_settings.load()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    telemetry_logging.setup(settings.log_level, settings.log_format)
    logging.getLogger("baton_operator").setLevel(telemetry_logging.LEVELS[settings.log_level])
    try:
        return asyncio.run(_operate(settings))
    except (ConfigException, OSError) as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
