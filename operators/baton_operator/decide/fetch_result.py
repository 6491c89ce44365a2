"""What a fetch pod says at its end: the JSON object that `baton fetch --result` writes."""

from __future__ import annotations

import json
from typing import Any


def commit(text: str) -> str | None:
    """What the model's revision stood for; None where the pod did not say."""
    found = _document(text).get("commit")
    return found if isinstance(found, str) and found else None


def problem(text: str) -> str:
    """What went wrong, for people; of a pod that was ended otherwise, the end of its log."""
    message = _document(text).get("message")
    return message if isinstance(message, str) and message else text.strip()


def _document(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
