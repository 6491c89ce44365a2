"""The audit log: one JSON line for each call that changes something, or was not allowed to.

Lines go to the logger `baton.audit`, which `telemetry.logging` writes as JSON whatever the level
and format of other logs. Keys are named by their ids.
"""

from __future__ import annotations

import logging

from baton.gateway.keys.caller import Caller
from baton.telemetry.logging import AUDIT, event

log = logging.getLogger(AUDIT)

_MAX_TARGET_CHARS = 256


def audit(caller: Caller, action: str, target: str, result: str, request_id: str = "") -> None:
    """`action` is a method or verb, `result` "ok" or an error's code."""
    log.info(
        *event(
            "admin_call",
            key_id=caller.key_id or "anonymous",
            tenant=caller.tenant,
            action=action,
            target=target[:_MAX_TARGET_CHARS],
            result=result,
            request_id=request_id,
        )
    )
